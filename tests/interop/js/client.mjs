// A Waggle peer in JavaScript: node client.mjs MULTIADDR
//
// It joins the node at that address, prints what it learns as lines of JSON, and takes commands, one a line:
// read (the ledger, by sync), program DIGEST (fetch it), state (make a discovery, which others find by sync), publish
// (that discovery), forge (publish others that must be refused).
import './node20.mjs'
import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { answer, ask } from './frames.mjs'
import { discovery, open, seal } from './statements.mjs'
import { catchUp, Ledger, REQUEST_BYTES_MAX, SYNC } from './sync.mjs'

const PROTOCOL = 1
const STATUS = '/waggle/status/1'
const STATUS_BYTES_MAX = 8 * 1024
const BLOB = '/waggle/blob/1'
const PEERS = '/waggle/peers/1'
const PROGRAM_BYTES_MAX = 64 * 1024

const say = (event, facts) => console.log(JSON.stringify({ event, ...facts }))
const digest = (data) => createHash('sha256').update(data).digest('hex')

function messageId ({ from, sequenceNumber }) {
  const seqno = Buffer.alloc(8)
  seqno.writeBigUInt64BE(sequenceNumber)
  return Buffer.concat([from.toMultihash().bytes, seqno])
}

const key = await generateKeyPair('Ed25519')
const me = peerIdFromPrivateKey(key).toString()
const libp2p = await createLibp2p({
  privateKey: key,
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    pubsub: gossipsub({ globalSignaturePolicy: 'StrictSign', msgIdFn: messageId })
  }
})
const { pubsub } = libp2p.services
const ledger = new Ledger()

const connection = await libp2p.dial(multiaddr(process.argv[2]))
const peer = connection.remotePeer
let challenge = null
const status = () => [PROTOCOL, challenge, 'waggle-foreign-client', []]
const { reply } = await ask(libp2p, peer, STATUS, status(), STATUS_BYTES_MAX)
challenge = reply[1]
say('status', { protocol: reply[0], challenge, agent: reply[2], addresses: reply[3], me })

const answers = {
  [STATUS]: status,
  [SYNC]: ([, question]) => [ledger.answer(question)],
  [BLOB]: () => [null], // not here
  [PEERS]: () => [[]]
}
for (const [protocol, respond] of Object.entries(answers)) {
  await libp2p.handle(protocol, (stream) => answer(stream, REQUEST_BYTES_MAX, respond))
}

const topic = `/waggle/1/${challenge}`
pubsub.topicValidators.set(topic, async (forwarder, message) => {
  try {
    const { id, kind, entry } = await open(message.data, challenge)
    say('received', { id, kind, author: entry.author, message: messageId(message).toString('hex') })
    return 'accept'
  } catch (error) {
    say('refused', { why: error.message })
    return 'reject'
  }
})
pubsub.addEventListener('gossipsub:graft', ({ detail }) => {
  if (detail.topic === topic && detail.peerId === peer.toString()) say('joined', { topic })
})
pubsub.subscribe(topic)

const statement = (author = me) =>
  discovery({ challenge, author, parent: digest('parent'), child: digest('child'), hypothesis: 'a foreign idea' })

const commands = {
  async read () {
    const complete = await catchUp(libp2p, peer, challenge, ledger)
    say('ledger', { complete, ids: ledger.entries().map(({ id }) => id) })
  },
  async program (wanted) {
    const size = ([whole]) => {
      if (whole > PROGRAM_BYTES_MAX) throw new Error(`a program of ${whole} bytes`)
      return whole ?? 0
    }
    const { reply, raw } = await ask(libp2p, peer, BLOB, [wanted, 0], STATUS_BYTES_MAX, size)
    say('program', { size: reply[0], sound: digest(raw) === wanted })
  },
  async state () {
    const opened = await open(await seal(key, me, statement()), challenge)
    ledger.add(opened)
    say('stated', { id: opened.id })
  },
  async publish () {
    const { envelope } = ledger.entries().find(({ entry }) => entry.author === me)
    await pubsub.publish(topic, envelope)
  },
  async forge () {
    const changed = (payload) => Buffer.from(payload.toString().replace('idea', 'lie.'))
    await pubsub.publish(topic, await seal(key, me, statement(), changed))
    await pubsub.publish(topic, await seal(key, me, statement(peer.toString())))
    await pubsub.publish(topic, await seal(key, me, { ...statement(), more: 1 }))
    await pubsub.publish(topic, Buffer.from('no envelope'))
  }
}
for await (const line of createInterface({ input: process.stdin })) {
  const [command, argument] = line.split(' ')
  await commands[command](argument)
}
await libp2p.stop()
