// Reads a card with the SDK's own resolver, verifies it, forges it, and signs it anew: `node cards.mjs URL KEY_SET`, one line of JSON at the end.
import { AgentCard, generateAgentCardSignature, verifyAgentCardSignature } from '@a2a-js/sdk';
import { DefaultAgentCardResolver } from '@a2a-js/sdk/client';
import * as jose from 'jose';
const [url, keySet] = process.argv.slice(2);
const resolver = new DefaultAgentCardResolver();
const card = await resolver.resolve(url, '.well-known/agent-card.json');
const keys = (await (await fetch(keySet)).json()).keys;
const find = async (kid) => jose.importJWK(keys.find((key) => key.kid === kid), 'ES256');
await verifyAgentCardSignature(find)(card);
const forged = structuredClone(card);
forged.skills[0].description += '!';
const refused = await verifyAgentCardSignature(find)(forged).then(() => false, () => true);
const pair = await jose.generateKeyPair('ES256', { extractable: true });
const own = AgentCard.fromJSON({ ...AgentCard.toJSON(card), signatures: [] });
const signed = await generateAgentCardSignature(pair.privateKey, { alg: 'ES256', kid: 'js', typ: 'JOSE' })(own);
console.log(JSON.stringify({ refused, interfaces: card.supportedInterfaces, skills: card.skills.map((one) => one.id),
  card: AgentCard.toJSON(signed), key: { ...(await jose.exportJWK(pair.publicKey)), kid: 'js' } }));
