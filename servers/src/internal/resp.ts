/** The Redis protocol, versions 2 and 3: requests are written and read, replies are read. */

/** A reply as plain data. What `>` announces is a push, which answers no command. */
export type Reply =
  | string
  | number
  | boolean
  | null
  | ReplyError
  | Push
  | ReadonlyArray<Reply>
  | ReadonlyMap<Reply, Reply>

/** An error that the server replied. */
export class ReplyError {
  readonly message: string
  constructor(message: string) {
    this.message = message
  }
}

/** What the server said unasked. */
export class Push {
  readonly values: ReadonlyArray<Reply>
  constructor(values: ReadonlyArray<Reply>) {
    this.values = values
  }
}

/** A request: an array of bulk strings, in both versions. */
export const encode = (parts: ReadonlyArray<string | Uint8Array>): Buffer =>
  Buffer.concat([
    Buffer.from(`*${parts.length}\r\n`),
    ...parts.flatMap((part) => [
      Buffer.from(`$${typeof part === "string" ? Buffer.byteLength(part) : part.byteLength}\r\n`),
      typeof part === "string" ? Buffer.from(part) : part,
      newline
    ])
  ])

const newline = Buffer.from("\r\n")

interface Read<A> {
  readonly value: A
  readonly next: number
}

const line = (bytes: Buffer, from: number): Read<string> | undefined => {
  const end = bytes.indexOf("\r\n", from)
  return end < 0 ? undefined : { value: bytes.toString("utf8", from, end), next: end + 2 }
}

/** The reply that begins at `from`, or nothing when it is not all there yet. */
export const readReply = (bytes: Buffer, from: number): Read<Reply> | undefined => {
  const head = line(bytes, from)
  if (head === undefined) return undefined
  const rest = head.value.slice(1)
  const bulk = (): Read<string | null> | undefined => {
    const length = Number(rest)
    if (length < 0) return { value: null, next: head.next }
    const next = head.next + length + 2
    return next > bytes.length ? undefined : { value: bytes.toString("utf8", head.next, next - 2), next }
  }
  const several = (count: number): Read<ReadonlyArray<Reply>> | undefined => {
    const values: Array<Reply> = []
    let next = head.next
    for (let index = 0; index < count; index++) {
      const one = readReply(bytes, next)
      if (one === undefined) return undefined
      values.push(one.value)
      next = one.next
    }
    return { value: values, next }
  }
  const mapped = <A, B>(read: Read<A> | undefined, change: (value: A) => B): Read<B> | undefined =>
    read === undefined ? undefined : { value: change(read.value), next: read.next }

  switch (head.value[0]) {
    case "+":
      return { value: rest, next: head.next }
    case "-":
      return { value: new ReplyError(rest), next: head.next }
    case ":":
    case ",":
      return { value: Number(rest.replace("inf", "Infinity")), next: head.next }
    case "(":
      return { value: rest, next: head.next }
    case "#":
      return { value: rest === "t", next: head.next }
    case "_":
      return { value: null, next: head.next }
    case "$":
      return bulk()
    case "!":
      return mapped(bulk(), (text) => new ReplyError(text ?? ""))
    case "=":
      // three letters of the format and a colon stand before the text
      return mapped(bulk(), (text) => text?.slice(4) ?? "")
    case "*":
      return Number(rest) < 0 ? { value: null, next: head.next } : several(Number(rest))
    case "~":
      return several(Number(rest))
    case ">":
      return mapped(several(Number(rest)), (values) => new Push(values))
    case "%":
      return mapped(several(Number(rest) * 2), pairs)
    case "|": {
      // attributes stand before the reply that they are about
      const attributes = several(Number(rest) * 2)
      return attributes === undefined ? undefined : readReply(bytes, attributes.next)
    }
    default:
      throw new Error(`not the Redis protocol: ${JSON.stringify(head.value.slice(0, 40))}`)
  }
}

const pairs = (values: ReadonlyArray<Reply>): ReadonlyMap<Reply, Reply> => {
  const map = new Map<Reply, Reply>()
  for (let index = 0; index + 1 < values.length; index += 2) map.set(values[index] ?? null, values[index + 1] ?? null)
  return map
}

/** The request that begins at `from`: an array of bulk strings, or words on a line as a person types them. */
export const readRequest = (bytes: Buffer, from: number): Read<ReadonlyArray<Buffer>> | undefined => {
  const head = line(bytes, from)
  if (head === undefined) return undefined
  if (bytes[from] !== 0x2a) {
    const words = head.value.split(/\s+/).filter((word) => word !== "")
    return { value: words.map((word) => Buffer.from(word)), next: head.next }
  }
  const count = Number(head.value.slice(1))
  if (!Number.isInteger(count)) throw new Error("Protocol error: invalid multibulk length")
  const parts: Array<Buffer> = []
  let next = head.next
  for (let index = 0; index < count; index++) {
    const length = line(bytes, next)
    if (length === undefined) return undefined
    if (!/^\$\d+$/.test(length.value)) throw new Error("Protocol error: expected '$'")
    const end = length.next + Number(length.value.slice(1))
    if (end + 2 > bytes.length) return undefined
    parts.push(bytes.subarray(length.next, end))
    next = end + 2
  }
  return { value: parts, next }
}

/** Takes chunks as they come and gives what is complete. */
export class Reader<A> {
  readonly #read: (bytes: Buffer, from: number) => Read<A> | undefined
  #rest: Buffer = Buffer.alloc(0)
  constructor(read: (bytes: Buffer, from: number) => Read<A> | undefined) {
    this.#read = read
  }
  /** What `chunk` completes, with the bytes of each. Throws when it is not the protocol. */
  take(chunk: Buffer): ReadonlyArray<{ readonly value: A; readonly bytes: Buffer }> {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    const complete: Array<{ readonly value: A; readonly bytes: Buffer }> = []
    let from = 0
    while (from < bytes.length) {
      const one = this.#read(bytes, from)
      if (one === undefined) break
      complete.push({ value: one.value, bytes: bytes.subarray(from, one.next) })
      from = one.next
    }
    this.#rest = bytes.subarray(from)
    return complete
  }
}
