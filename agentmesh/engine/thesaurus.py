"""Thesaurus: what people say, and what the interfaces of programs say for it. Read by `engine.words`.

General English of people at work with programs; the name of a product has no place here. Groups stand between slashes.
"""

from __future__ import annotations

from typing import Final

STOP: Final = """
a an and any are as at be been but by can could did do does doing done for from had has have having he her him his how i
if in into is it its just like me mine my need of off on onto or our own please shall she should so some somebody
someone something that the their them then there these they this those to too up us very want was we were what when
where which while who whom whose why will with would you your
"""
"""Words that say nothing of what a tool does."""

PHRASES: Final = """
get rid of: delete remove / throw away: delete remove / throw out: delete remove / take away: remove delete / take off:
remove delete / take out: remove delete / take down: delete remove / wipe out: delete remove / set up: create / sign up:
register / put together: create / look up: search get / look for: search / look at: get / look like: describe / find
out: get / turn on: enable / turn off: disable / switch on: enable / switch off: disable / switch to: set select switch
/ log in: login connect / log on: login connect / log out: logout disconnect / up to date: update / bring up: update /
at once: batch multiple / in one go: batch multiple / all at once: batch multiple / a dozen: batch multiple / at the
same time: batch multiple / how many: count number / how much: count amount / how long: duration time / how often: count
statistics / how big: size / how large: size / how fast: speed performance / how far: distance / over time: history / so
far: history / give to: assign / hand over: assign / put away: archive / put on: add create insert / put in: add create
insert / put into: add create insert / put under: move add create insert / fill in: fill / fill out: fill / hang on:
attachment / write down: note / belong to: linked / make room: insert / in charge of: owner assignee / who am i: current
user authenticated / right now: run current / near me: nearby search / go back: back / try again: retry rerun / as csv:
export csv / as pdf: export pdf / as markdown: markdown / to do: task / no longer: remove delete / not any more: remove
delete / any more: remove delete / is doing: status / are doing: status / get from: direction route / take part: member
attend / know about: search / keep informed: watch notify subscribe / on time: due date / next to: near / bring back:
restore / give back: return / carry on: resume continue / go on: continue / hold back: pause / point out: comment / read
out: get / drop off: delete remove / fire up: start launch / shut down: stop / clean up: delete cleanup remove / back
up: backup / roll back: rollback / check in: commit / check out: checkout / work on: update / on behalf: user / made up:
list / made of: list / depend on: dependency depend / lead to: cause
"""
"""What several words together mean."""

SAME: Final = """
create add make new insert put write register generate open start set build raise / delete remove drop erase destroy
clear discard wipe purge throw forget / update edit change modify alter patch correct adjust set rewrite / get read
fetch retrieve show view display see open look inspect describe detail info information tell give / list show get all
every enumerate browse page / search find query look locate filter / send post submit publish tell write / start run
launch trigger begin execute invoke / stop cancel terminate halt end abort kill finish close / rename name / move
transfer put drag / copy duplicate clone replicate / save write store / give assign hand / upload attach put add /
download get export load / attachment file attach / comment remark note / comment reply answer / reply answer respond /
connect link associate join relate connection relation / associate association relation link / disconnect close / login
connect authenticate / screenshot picture image photo / media image sound audio video picture / folder directory path /
subfolder directory folder tree nested / tag label / ticket issue bug task / report issue bug / task todo / member user
person people account profile everybody everyone / permission right access restriction / content text body inside /
history log activity past changelog / recent latest last newest lately / current active now / scale resize replica
bigger larger smaller / small tiny mini / size big large space storage / url address link web / address place location /
website site web page internet / worksheet sheet / spreadsheet workbook sheet excel / row record line / field property
column / column list / attribute property field / allow enable let permit allowed / only restrict validation limit /
merge combine join / status state progress / execute command run / choose select pick switch / select option dropdown /
click press hit push button / press key keyboard / mouse pointer cursor / type enter input fill / error failure problem
fault exception / fail failed break broken error / undo rollback revert restore back / sort order / colour color / bold
font format / background fill format / wide width height layout / organization organisation org / environment env /
config configuration setting preference / database db / application app / document doc file / project repo repository /
message mail email / batch bulk multiple several many / count number total amount / statistic stat metric figure / cost
price billing / usage used use / limit quota / credit balance / analyze analyse explain / why cause reason /
documentation guide manual help doc / alert alarm warning notification / notify inform tell watch / watch follow monitor
watcher / schedule recurring cron / automation workflow / workflow job pipeline / build pipeline job / ci pipeline build
/ test check / check verify validate / pass success status / valid validate lint / version release revision / release
deploy publish / deploy apply release / deployment release / sprint iteration / hour time worklog duration / date time
day due deadline / duration long time / child children subtask nested / parent child / tree nested hierarchy recursive
outline / depend dependency depends block / block dependency link / wait waiting pending open / approve review accept /
reviewer review / owner assignee / route direction way / distance travel drive far / restaurant place shop hotel /
coordinate latitude longitude / elevation altitude height high / near nearby around / translate convert / convert
transform / split divide separate / group aggregate sum / entity object node thing / fact observation / graph network /
machine server instance node / container pod / network request traffic / log print output console / speed performance
fast slow / memory heap leak / record capture trace / video screencast recording / accessibility a11y / dark color theme
/ popup dialog alert / tab page / window page / visit navigate go open / back navigate previous / paragraph block
section text / chapter section part heading / section heading group / sentence text selection inline / move reorganize /
person contact / client customer / purchase order / template pattern / example sample demo / default standard / empty
blank clear / freeze pane / chart graph diagram plot / formula calculation / macro vba script / duplicate repeated
unique / replace substitute / negative conditional / name label title / identify id / public open / private restricted /
secret token key / encrypt secure / safe secure / archive old away / sleep pause suspend / resume continue / upgrade
update newer scale / install setup deploy / uninstall remove / region location world / cloud provider / available
supported offer / compare diff difference / difference diff change / stage staged add / commit change save record / done
complete finish close transition status / transition status move set / propose suggest create request / land merge /
informed notify watch subscribe / touch access allow / know search find / value data / valid allow / total sum / source
origin precedent trace / stand contain find / contain include inside / smaller sub part child / below under beneath
child sub / above parent over / cell range / blue color format / red color format / header heading row / busy active
running / ready available / book reserve log / hire employee / pay payment / bill invoice / ask question request query /
answer response / teach train / learn read / print export / paper article publication / study paper research / call
phone / meeting event calendar appointment / guest attendee participant / invite attendee share / calendar agenda
schedule / deck presentation slide / bullet list / letter document mail / note memo / table grid / footnote note /
password protect secret / protect lock restrict / key index / charge pay / refund return / subscribe follow /
unsubscribe unfollow / domain dns / dns record / server machine host vm droplet / host server region / firewall rule /
disk storage drive volume / drive disk file / snapshot backup copy / certificate tls ssl / bill cost / local working /
branch head / checkout switch
"""
"""Words that people use for one thing, a group a line. A word may stand in several."""

PLAIN: Final = """
access: reach allow let may log / activity: happened happening action / advisor: recommend suggestion / aggregate: sum
group total average / alert: alarm warning / allowed: may touch permitted / analysis: why explain cause reason /
analyze: why explain cause reason / apply: deploy use / archive: away / artifact: file output produced result / assign:
give hand delegate responsible owner / assignee: responsible owner / attachment: file picture photo document attached
hangs / backlog: later / board: wall / branch: line / bulk: many several / card: task ticket / cell: field / channel:
room / chart: diagram plot graph / checkout: switch / children: below under beneath / clear: empty reset blank / column:
list / comment: remark opinion feedback said wrote say / component: part module / conditional: negative depending /
connect: log login / console: logged / contact: person customer / context: environment switch / convert: turn translate
/ crawl: collect whole walk site / credential: password secret login / credit: left remaining / customer: client /
defined: named name / dependency: prerequisite needs waits before / deployment: release rollout / describe: what /
development: commit code branch / dialog: popup alert box window / diff: compare difference changed / direction: route
way get / disable: off deactivate / disconnect: leave quit hang / discover: explore / discussion: conversation talk /
distance: far long / domain: website / drag: pull / drain: empty maintenance / elevation: high height altitude sea /
emoji: smiley thumb heart / emulate: simulate pretend / enable: on activate / engagement: call meeting activity note
email / entity: thing person place / evaluate: run javascript / exec: command shell / explain: plan slow meaning /
extract: pull structured / find: contain stand / firewall: port / flaky: unreliable intermittent sometimes occasionally
random / fork: own copy / format: bold italic font colour color look background style / forward: reach / geocode:
latitude longitude coordinate address / group: team / history: earlier past over time before / hover: point over /
image: picture photo logo screenshot / import: load bring / index: speed faster / info: modified large big / inline:
sentence line / insert: put / label: tag mark category / layout: width wide freeze / list: column / log: trail record
printed wrote happened events protocol / macro: vba code / matrix: several many / media: picture image sound audio /
member: people person everyone / merge: join land / message: note text mail said / metric: statistic figure measurement
number / monitor: watch observe / move: put belongs elsewhere / namespace: area / navigate: go open visit / node:
machine maintenance / note: remind / object: record / observation: fact / organization: company / page: document wiki /
pane: freeze top / paper: article study publication / parent: above under / parse: read convert / password: credential /
pause: sleep stop weekend / permission: right may allowed / pivot: summarize / place: restaurant shop hotel cafe museum
near / port: reach / profile: account person user bio / project: initiative undertaking / property: custom / protect:
lock / pull: propose / queue: waiting line / range: cell cells area block / reaction: emoji smiley thumb heart /
recommendation: recommend advice / region: area country continent world data location / relation: connection related
works / replace: substitute instead / reply: answer respond / request: ask / rerun: again retry / reset: undo clear /
resolve: solved / resource: object thing kind / restore: recover back / restriction: permission allowed only / result:
outcome output answer / reverse: back / review: feedback opinion / rollback: previous revert undo / row: line / sample:
example test / schema: structure shape fields columns custom types / scrape: content grab / screenshot: picture /
section: chapter part heading / seer: why / set: assign fix choose determine make / sheet: worksheet tab / sla: late met
long took / slicer: filter button / snapshot: backup copy / space: area wiki / sparkline: tiny mini trend / stage: add
prepare / staged: next prepared / status: state condition health progress going phase stage finished done /
subscription: plan / subtask: step smaller / suggestion: recommend advice / template: pattern ready / terminal: shell /
thread: conversation / topic: subject / trace: track follow origin record / transform: duplicate split fill /
transition: status advance step workflow done / tree: nested subfolder hierarchy whole / upgrade: bigger larger newer
grow / user: person people colleague developer everyone everybody member login / validate: check correct valid right
verify / validation: restrict allowed permitted only / vba: macro / version: release revision edition / view: read seen
visit / watch: follow / watcher: follower following interested follow inform / workbook: spreadsheet file / worklog:
hours effort spent booked time / worksheet: tab
"""
"""For a word of interfaces the words that people say when they mean it, and which mean more besides."""
