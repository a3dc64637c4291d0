/**
 * memcached's meta protocol (1.6 and later): what is sent as text, and an incremental reader of what comes back. Every
 * request has exactly one reply, in order, so a reply that cannot be read means that the stream is lost.
 */

/** One reply. */
export type Reply =
  /** A value with its flags, such as `t-1` and `c12`. */
  | { readonly code: "VA"; readonly flags: ReadonlyArray<string>; readonly value: Buffer }
  /** Stored, deleted, touched. */
  | { readonly code: "HD"; readonly flags: ReadonlyArray<string> }
  /** A miss of `mg`; not stored; the item is another by now; not found; nothing to do; done. */
  | { readonly code: "EN" | "NS" | "EX" | "NF" | "MN" | "OK" | "STORED" }
  | { readonly code: "VERSION"; readonly text: string }
  | { readonly code: "STATS"; readonly entries: ReadonlyArray<readonly [name: string, value: string]> }
  | { readonly code: "ERROR" | "CLIENT_ERROR" | "SERVER_ERROR"; readonly text: string }

/** What came is no reply. */
export class Unreadable extends Error {}

/** No line of a reply is longer: a key has 250 bytes, a flag a few. */
const longestLine = 8_192

const none: ReadonlyArray<string> = []

/** Reads replies out of pieces of any size. */
export class Reader {
  private pieces: Array<Buffer> = []
  private held = 0
  /** With fewer bytes than this nothing can be read. */
  private needed = 1
  private stats: Array<readonly [string, string]> | undefined

  /** Gives each whole reply to `each`. Throws `Unreadable`. */
  take(piece: Buffer, each: (reply: Reply) => void): void {
    this.pieces.push(piece)
    this.held += piece.length
    if (this.held < this.needed) return
    const bytes = this.pieces.length === 1 ? piece : Buffer.concat(this.pieces, this.held)
    let at = 0
    let needed = 1
    while (at < bytes.length) {
      const end = bytes.indexOf(10, at)
      if (end < 0) {
        if (bytes.length - at > longestLine) throw new Unreadable("a line without an end")
        needed = bytes.length - at + 1
        break
      }
      if (end === at || bytes[end - 1] !== 13) throw new Unreadable("a line without its end")
      // VA <size> <flags>
      if (bytes[at] === 86 && bytes[at + 1] === 65 && bytes[at + 2] === 32) {
        const words = bytes.toString("latin1", at + 3, end - 1).split(" ")
        const size = Number(words[0])
        if (!Number.isInteger(size) || size < 0 || words[0] === "") throw new Unreadable("a value without its size")
        const after = end + 1 + size
        if (bytes.length < after + 2) {
          needed = after + 2 - at
          break
        }
        if (bytes[after] !== 13 || bytes[after + 1] !== 10) throw new Unreadable("a value of another size")
        words.shift()
        at = after + 2
        const value = bytes.subarray(end + 1, after)
        // who keeps a small value shall not keep all that came with it
        each({ code: "VA", flags: words, value: size * 4 < bytes.length ? Buffer.from(value) : value })
        continue
      }
      const line = bytes.toString("latin1", at, end - 1)
      at = end + 1
      const reply = this.line(line)
      if (reply !== undefined) each(reply)
    }
    const rest = bytes.length - at
    this.pieces = rest === 0 ? [] : [at === 0 ? bytes : bytes.subarray(at)]
    this.held = rest
    this.needed = needed
  }

  private line(line: string): Reply | undefined {
    const space = line.indexOf(" ")
    const word = space < 0 ? line : line.slice(0, space)
    const rest = space < 0 ? "" : line.slice(space + 1)
    switch (word) {
      case "HD":
        return { code: "HD", flags: rest === "" ? none : rest.split(" ") }
      case "EN":
      case "NS":
      case "EX":
      case "NF":
      case "MN":
      case "OK":
      case "STORED":
        return { code: word }
      case "VERSION":
        return { code: "VERSION", text: rest }
      case "STAT": {
        const between = rest.indexOf(" ")
        this.stats ??= []
        this.stats.push(between < 0 ? [rest, ""] : [rest.slice(0, between), rest.slice(between + 1)])
        return undefined
      }
      case "END": {
        const entries = this.stats ?? []
        this.stats = undefined
        return { code: "STATS", entries }
      }
      case "ERROR":
      case "CLIENT_ERROR":
      case "SERVER_ERROR":
        return { code: word, text: rest }
      default:
        throw new Unreadable("no reply of memcached")
    }
  }
}

/** What a flag of a reply says: `flag(["t-1", "c12"], "c")` is `"12"`. */
export const flag = (flags: ReadonlyArray<string>, name: string): string | undefined => {
  for (const one of flags) if (one.startsWith(name)) return one.slice(1)
  return undefined
}
