// Statements in DSSE envelopes: opening, checking, signing and naming them (docs/protocol.md, Envelopes).
import { decode, encode } from '@msgpack/msgpack'
import { peerIdFromString } from '@libp2p/peer-id'
import { dsse } from '@sigstore/core'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'

const PAYLOAD_TYPE = 'application/vnd.in-toto+json'
const STATEMENT_TYPE = 'https://in-toto.io/Statement/v1'
const ENVELOPE_BYTES_MAX = 65 * 1024

// What an envelope holds: id, entry (the place), kind and the envelope itself; throws an Error that says what is wrong.
// The other fields of the predicate are not checked: a client that acts on what is claimed checks those that it reads.
export async function open (data, challenge) {
  if (data.length > ENVELOPE_BYTES_MAX) throw new Error(`an envelope of ${data.length} bytes`)
  const { payloadType, payload, signatures } = decode(data)
  if (payloadType !== PAYLOAD_TYPE) throw new Error(`payload type ${payloadType}`)
  if (signatures.length !== 1) throw new Error(`${signatures.length} signatures`)
  const [{ keyid, sig }] = signatures
  const signer = peerIdFromString(keyid)
  if (signer.type !== 'Ed25519') throw new Error(`a key of type ${signer.type}`)
  const signed = await signer.publicKey.verify(dsse.preAuthEncoding(payloadType, payload), sig)
  if (!signed) throw new Error('the signature is wrong')
  const statement = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(payload))
  const { entry } = statement.predicate
  if (statement._type !== STATEMENT_TYPE) throw new Error(`not a statement: ${statement._type}`)
  if (entry.author !== keyid) throw new Error('the author did not sign')
  if (entry.challenge !== challenge) throw new Error(`of challenge ${entry.challenge}`)
  return { id: await entryId(payload), entry, kind: statement.predicateType.split(':')[2], envelope: data }
}

// The envelope of a statement, signed by `key`. `damage` changes the signed bytes, for those who must notice.
export async function seal (key, keyid, statement, damage = (payload) => payload) {
  const payload = Buffer.from(JSON.stringify(statement))
  const sig = await key.sign(dsse.preAuthEncoding(PAYLOAD_TYPE, payload))
  return encode({ payloadType: PAYLOAD_TYPE, payload: damage(payload), signatures: [{ keyid, sig }] })
}

// CIDv1, codec raw, SHA-256, in base32.
export async function entryId (payload) {
  return CID.createV1(raw.code, await sha256.digest(payload)).toString()
}

// A discovery that stands first in its author's feed: the claim that program `child` beats `parent`.
export function discovery ({ challenge, author, parent, child, hypothesis }) {
  return {
    _type: STATEMENT_TYPE,
    subject: [{ name: 'train.py', digest: { sha256: child } }],
    predicateType: 'urn:waggle:discovery:v1',
    predicate: {
      entry: {
        protocol: 1, challenge, author, feed: 'main', seq: 0, prev: null, lamport: 1,
        recorded_at: new Date().toISOString()
      },
      track: 'cpu-quick',
      parent,
      hypothesis,
      proposer: 'foreign',
      comparison: {
        split: 'public', seeds: [], parent_trials: [], child_trials: [], differences: [],
        mean: 0, low: 0, high: 0, p_value: 1, noise: 0
      }
    }
  }
}
