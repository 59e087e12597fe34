// What a client holds, compared with what others hold (docs/protocol.md, Sync).
import { createHash } from 'node:crypto'
import { ask } from './frames.mjs'
import { open } from './statements.mjs'

export const SYNC = '/waggle/sync/1'
export const REQUEST_BYTES_MAX = 512 * 1024
const REPLY_BYTES_MAX = 385 * 1024
const PAGE_BYTES_MAX = 256 * 1024
const FEEDS = ['', 'x'] // the range of all feeds; after it come proofs of equivocation, which this client does not keep

const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest()
const keyOf = ({ author, feed }) => `${feed.startsWith('main') ? 'm' : 't'}${author}/${feed}`

export class Ledger {
  #feeds = new Map() // key → entries as `open` gives them, oldest first

  // Keep an entry that extends its feed; throws an Error for any other.
  add (opened) {
    const key = keyOf(opened.entry)
    const feed = this.#feeds.get(key) ?? []
    const last = feed.at(-1)
    const { seq, prev, lamport } = opened.entry
    if (seq !== feed.length || prev !== (last?.id ?? null) || lamport <= (last?.entry.lamport ?? -1)) {
      throw new Error(`${key}/${seq} does not extend its feed`)
    }
    this.#feeds.set(key, [...feed, opened])
  }

  entries () {
    return [...this.#feeds.values()].flat()
  }

  digest (range) {
    const heads = this.#within(range).map(([key, feed]) => `${key}/${feed.length - 1}/${feed.at(-1).id}`)
    return sha256(...heads.map((head) => sha256(head))).subarray(0, 16)
  }

  positions (range) {
    return this.#within(range).map(([, feed]) => {
      const { id, entry } = feed.at(-1)
      return [entry.author, entry.feed, entry.seq, id]
    })
  }

  // The answer to a peer's question.
  answer ([tag, ranges, positions, banned]) {
    return tag === 'compare' ? this.#compare(ranges) : this.#page(ranges, positions, banned)
  }

  #compare (ranges) {
    const lacking = [...ranges.keys()].filter((place) => {
      const [start, end, digest] = ranges[place]
      return this.#within([start, end]).length > 0 && !this.digest([start, end]).equals(digest)
    })
    return ['compared', this.digest(['', '~']), lacking]
  }

  #page (ranges, positions, banned) {
    const next = new Map(positions.map(([author, feed, seq]) => [keyOf({ author, feed }), seq + 1]))
    const envelopes = []
    let size = 0
    for (const [key, feed] of ranges.flatMap((range) => this.#within(range))) {
      if (banned.includes(feed[0].entry.author)) continue
      for (const { envelope } of feed.slice(next.get(key) ?? 0)) {
        size += envelope.length
        if (size > PAGE_BYTES_MAX && envelopes.length > 0) return ['page', envelopes, [], true]
        envelopes.push(envelope)
      }
    }
    return ['page', envelopes, [], false]
  }

  #within ([start, end]) {
    const found = [...this.#feeds].filter(([key]) => start <= key && key < end)
    return found.sort(([one], [other]) => (one < other ? -1 : 1))
  }
}

// Ask a peer for all that is not in `ledger`, page by page; then whether nothing of its feeds is lacking here any more.
// One question names every feed, so this is for ledgers of up to 2048.
export async function catchUp (libp2p, peer, challenge, ledger) {
  const question = async (...parts) => {
    const { reply: [answer] } = await ask(libp2p, peer, SYNC, [challenge, parts], REPLY_BYTES_MAX)
    return answer
  }
  let [start, end] = FEEDS
  for (let unfinished = true; unfinished;) {
    const [, envelopes, , more] = await question('pull', [[start, end]], ledger.positions([start, end]), [])
    if (more && envelopes.length === 0) throw new Error('an empty page that announces more')
    for (const envelope of envelopes) {
      const opened = await open(envelope, challenge)
      ledger.add(opened)
      start = keyOf(opened.entry)
    }
    unfinished = more
  }
  const [, , lacking] = await question('compare', [[...FEEDS, ledger.digest(FEEDS)]])
  return lacking.length === 0
}
