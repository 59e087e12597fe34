// A message of a stream protocol is a frame: its length as a big-endian u32, then msgpack (docs/protocol.md, Streams).
import { decode, encode } from '@msgpack/msgpack'
import { byteStream } from '@libp2p/utils'

const DEADLINE_MS = 30_000

// Send one message, close our side, and read the answer and `bytesAfter(answer)` raw bytes.
export async function ask (libp2p, peer, protocol, message, replyBytesMax, bytesAfter = () => 0) {
  const signal = AbortSignal.timeout(DEADLINE_MS)
  const stream = await libp2p.dialProtocol(peer, protocol, { signal })
  try {
    const bytes = byteStream(stream)
    stream.send(frame(message))
    await stream.close({ signal })
    const reply = await receive(bytes, replyBytesMax, signal)
    return { reply, raw: await readExactly(bytes, bytesAfter(reply), signal) }
  } catch (error) {
    stream.abort(error)
    throw error
  }
}

// Read one message from a stream that a peer opened, and send the answer that `respond` makes of it.
export async function answer (stream, requestBytesMax, respond) {
  const signal = AbortSignal.timeout(DEADLINE_MS)
  try {
    stream.send(frame(respond(await receive(byteStream(stream), requestBytesMax, signal))))
    await stream.close({ signal })
  } catch (error) {
    stream.abort(error)
  }
}

function frame (message) {
  const body = encode(message)
  const framed = Buffer.alloc(4 + body.length)
  framed.writeUInt32BE(body.length)
  framed.set(body, 4)
  return framed
}

async function receive (bytes, bytesMax, signal) {
  const size = (await readExactly(bytes, 4, signal)).readUInt32BE()
  if (size > bytesMax) throw new Error(`a frame of ${size} bytes, over ${bytesMax}`)
  return decode(await readExactly(bytes, size, signal))
}

async function readExactly (bytes, size, signal) {
  return size === 0 ? Buffer.alloc(0) : Buffer.from((await bytes.read({ bytes: size, signal })).subarray())
}
