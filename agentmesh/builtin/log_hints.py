"""Words of a log line that speak for a cause.

They are hints for the model, which sees them beside the lines, and on their own the baseline that it has to beat.
"""

from __future__ import annotations

import re

CAUSES = (
    "assertion",
    "import",
    "syntax",
    "type",
    "dependency",
    "network",
    "timeout",
    "memory",
    "permission",
    "lint",
    "crash",
    "other",
)

# Strength: 3 names a fault for certain, 2 most likely, 1 is a line worth showing.
_TABLE: list[tuple[str, int, str]] = [
    (
        "memory",
        3,
        r"\bMemoryError\b|OutOfMemory|out of memory|bad_alloc|heap limit|OOM ?[Kk]illed|[Cc]annot allocate memory|memory allocation of|\bENOMEM\b|Allowed memory size",
    ),
    ("memory", 3, r"\bKilled\b(?! by)|Error 137\b|exit(?:ed)? (?:code|status) 137|signal: 9|SIGKILL"),
    (
        "crash",
        3,
        r"[Ss]egmentation fault|SIGSEGV|\bSIGABRT\b|\bSIGBUS\b|Bus error|Floating point exception|Illegal instruction|Aborted\b|core dumped|AddressSanitizer|Fatal Python error|terminate called|signal 11|signal: 11|stack smashing",
    ),
    (
        "timeout",
        3,
        r"[Tt]imed? ?out\b|TimeoutE\w+|Timeout[ >]|\bETIMEDOUT\b|deadline exceeded|did not (?:finish|complete|respond|answer) (?:with)?in|Error 124\b|took longer than",
    ),
    (
        "network",
        3,
        r"[Cc]onnection ?(?:was )?(?:refused|reset|aborted|closed)|Connection\w*Error|ECONNREFUSED|ECONNRESET|ENOTFOUND|EAI_AGAIN|getaddrinfo|gaierror|[Nn]ame or service not known|[Nn]ame resolution|[Cc]ould(?: not|n't) (?:resolve|connect)|no such host|Failed to (?:connect|establish)|ConnectException|UnknownHost|URLError|[Nn]etwork is unreachable|[Nn]o route to host|unable to resolve host|Broken ?[Pp]ipe|fetch failed|is unreachable|certificate|curl: \((?:5|6|7|35|52|56)\)|EHOSTUNREACH|50[234] (?:Service|Bad)|E50[0234]\b",
    ),
    (
        "permission",
        3,
        r"[Pp]ermission ?[Dd]enied|PermissionError|\bEACCES\b|\bEPERM\b|[Oo]peration not permitted|[Aa]ccess [Dd]enied|AccessDenied|403 Forbidden|401 Unauthorized|\bE401\b|Unauthorized",
    ),
    (
        "dependency",
        3,
        r"No matching distribution|Could not find a version|ResolutionImpossible|conflicting dependencies|Cannot install|Invalid requirement|ERESOLVE|\bE404\b|ETARGET|No matching version|command not found|: not found$|not found in registry|cannot find -l|no matching package|PackageNotFoundError|PackageNotFound|can only install packages when|not in sync|use of undeclared crate|maybe a missing crate|unlinked crate|unmet|Could not resolve dependenc",
    ),
    (
        "dependency",
        2,
        r"No module named|Cannot find module '(?![./])|Cannot find package|unresolved import|fatal error: .*(?:No such file|not found)|error: package [\w.]+ does not exist|Cannot find module|is not in (?:GOROOT|std)|no required module|cannot load such file|No such file or directory$",
    ),
    (
        "import",
        2,
        r"cannot import name|file not found for module|No rule to make target|attempted relative import|Failed opening required",
    ),
    (
        "syntax",
        3,
        r"SyntaxError|IndentationError|TabError|syntax error|[Pp]arse ?[Ee]rror|missing separator|commences before first target|unexpected (?:token|EOF|end of|indent)|expected (?:';'|'\)'|expression|declaration|identifier|item|primary|one of|`|')|';' expected|'\)'.* expected|unclosed|not a statement|illegal start|missing terminating|stray|unterminated|EJSONPARSE|TS1\d{3}\b|was never closed|error: expected|reached end of file",
    ),
    (
        "type",
        3,
        r"TypeError|AttributeError|NameError|UnboundLocalError|ReferenceError|ClassCastException|NoMethodError|undeclared|implicit declaration|undefined reference|has no member|incompatible|mismatched types|cannot find (?:symbol|value|function|type)|no (?:method|field) named|was not declared|not declared in|unknown type|no match(?:ing)?\b|cannot convert|TS[27]\d{3}|TS18\d{3}|undefined: |cannot use|error\[E0[0-35-9]|error\[E04(?!32)|redefinition|redeclar|conflicting types|read-only|missing return|cannot be applied|no suitable|might not have been|unreported exception|possible lossy|too (?:few|many) arguments|makes (?:integer|pointer)|not a (?:function|pointer|member|struct)|declared (?:but|and) not used|\[(?:assignment|arg-type|attr-defined|return-value|call-arg|operator|index|union-attr|name-defined|no-untyped\S*)\]",
    ),
    (
        "assertion",
        3,
        r"\bAssert\w*(?:Error|Failed|Exception)|[Aa]ssertion\b.*failed|^E +assert |ERR_ASSERTION|DID NOT RAISE|expected:? ?<|^\s*expect\(|Expected\b.*(?:[Rr]eceived|got|to )|want \d|Failed: (?!Timeout)|AssertionFailed|Failed asserting|to equal|not to be",
    ),
    (
        "lint",
        3,
        r"(?:^|\s)(?:[EFW]\d{3}|[CRW]\d{4})\b|no-[a-z]+(?:-[a-z]+)*\]?$|\s(?:eqeqeq|prefer-\w+|semi|quotes|curly|camelcase|indent|max-len)\]?\)?$|\[(?:Error|Warning)/|Found \d+ errors?\.|✖ \d+ problem|would reformat|unused-|bare-except",
    ),
    # What a compiler says, of a kind no other line names, is most likely about types; what mypy says is.
    (
        "type",
        2,
        r"\.(?:c|cc|cpp|cxx|h|hpp|m|java|kt|swift|cs|go|ts|tsx|zig):\d+(?::\d+)?: (?!warning|note)|^error\[E\d{4}\]|\.py:\d+(?::\d+)?: error:|\(\d+,\d+\): error ",
    ),
    ("lint", 2, r"(?:^|:\d+: )[A-Z]{1,5}\d{3,4}(?::|\s)|:\d+:\d+: .*[(\[][a-z]+(?:-[a-z]+)+[)\]]$"),
    (
        "other",
        2,
        r"\b(?:Key|Index|Value|ZeroDivision|FileNotFound|Recursion|JSONDecode|Runtime|NotImplemented|Overflow|Lookup|Unicode\w*|OS|IsADirectory|StopIteration|Operational|Integrity)Error\b|\b\w+(?:Error|Exception): |Exception in thread|panicked at|^panic: |NullPointer|ENOENT|unbound variable|called `(?:Option|Result)|index out of bounds|No such file or directory|No space left|fatal: |InvalidOperation|RangeError|Uncaught|Traceback \(most",
    ),
    (
        "other",
        1,
        r"\b(?:ERROR|FATAL|CRITICAL|error|fatal|Error|failed|FAILED|Failed|FAIL|failure|ERR!|invalid|cannot|could not)\b|\*\*\*|level=error|^E  ",
    ),
]
_COMPILED = [(cause, strength, re.compile(pattern)) for cause, strength, pattern in _TABLE]
_ANY = re.compile(
    r"\.\w{1,5}:\d+(?::\d+)?: |err|fail|exception|fatal|called `|out of bounds|kill|abort|dump|fault|tim(?:ed|e)? ?out|memory|oom|conn|refus|reset|denied|permi|not found|no such|cannot|could not|"
    r"unable|unresolved|undefined|undeclared|syntax|expect|assert|panic|missing|invalid|unexpected|unreachable|resolve|E\d{3}|W\d{4}|F\d{3}|C\d{4}|R\d{4}|"
    r"ts\d{4}|traceback|\*\*\*|bus |signal|sigsegv|no-|eqeqeq|prefer|semi|quotes|curly|unused|forbidden|unauthor|conflict|mismatch|no (?:rule|match|method|field|space)|"
    r"deadline|did not|longer than|want |^\s*e  |implicit|previous|unclosed|unterminated|stray|redefin|redecl|lossy|uncaught|certificate|too (?:few|many)|makes |illegal|unbound|alloc|never closed|does not|"
    r"not declared|not used|has no|incompatible|pipe|separator|commences|sanitizer|terminate|not permitted",
    re.IGNORECASE,
)
_CALM = re.compile(
    r"^\s*(?:\d+ passed|0 errors?|ok\b|PASS|# (?:fail|cancelled) 0)|\bwarning\b|\bWARN\b|\bDEBUG\b|\bINFO\b|retry|npm warn|\bnote:|^make(?:\[\d+\])?: \*\*\* \[.*Error (?:1|2)$|"
    r"Makefile:\d+: \w|short test summary|^=+|^-+|^\s*at |^\s*File \"|A complete log of this run|Process completed|ERR_TEST_FAILURE|subtestsFailed|Failed asserting that two|errors? generated|could not compile|^FAILED \(|target .* not remade|^\s*(?:raise|except|throw|assert|from|import|with|return|if) ",
    re.IGNORECASE,
)


def of_line(text: str) -> tuple[str, int] | None:
    """The cause the line speaks for and how strongly (1 to 3); None for a line that says nothing of a fault."""
    if not _ANY.search(text):
        return None
    found: tuple[str, int] | None = None
    for cause, strength, pattern in _COMPILED:
        if pattern.search(text):
            found = (cause, strength)
            break
    if found and _CALM.search(text):
        return (found[0], 0) if found[1] < 3 else (found[0], 1)
    return found
