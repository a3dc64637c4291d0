/**
 * The messages by which a statement is asked for, all in one buffer: each write is a call of the system, which costs more
 * than anything else that is done for a small statement.
 *
 * Source: https://www.postgresql.org/docs/current/protocol-message-formats.html
 */

/** What is asked for. `name` is empty for a statement that is not prepared. */
export interface Ask {
  /** A statement that is run before it and gives nothing, such as BEGIN. */
  readonly begin: string | undefined
  /** A prepared statement that is closed before it. */
  readonly close: string | undefined
  readonly name: string
  /** Its text, where the server does not have it under that name. */
  readonly text: string | undefined
  /** Values in PostgreSQL's own text: at most 65,535. */
  readonly values: ReadonlyArray<string | null>
  /** Whether the columns are to be told. */
  readonly describe: boolean
}

const describe = Buffer.from([0x44, 0, 0, 0, 6, 0x50, 0])
const execute = Buffer.from([0x45, 0, 0, 0, 9, 0, 0, 0, 0, 0])
const sync = Buffer.from([0x53, 0, 0, 0, 4])
const described = Buffer.concat([describe, execute, sync])
const executed = Buffer.concat([execute, sync])

/** `Parse`: name and text, with no types. */
const parseSize = (name: number, text: number): number => 1 + 4 + name + 1 + text + 1 + 2

/** `Close` of a statement. */
const closeSize = (name: number): number => 1 + 4 + 1 + name + 1

const writeText = (into: Buffer, text: string, bytes: number, at: number): number => {
  into.write(text, at, bytes, "utf8")
  into[at + bytes] = 0
  return at + bytes + 1
}

const writeParse = (into: Buffer, name: string, nameBytes: number, text: string, bytes: number, at: number): number => {
  into[at] = 0x50
  into.writeInt32BE(parseSize(nameBytes, bytes) - 1, at + 1)
  const end = writeText(into, text, bytes, writeText(into, name, nameBytes, at + 5))
  into.writeInt16BE(0, end)
  return end + 2
}

/** `Parse`, `Bind` and `Execute` of a statement without a name and values. */
const run = (text: string): Buffer => {
  const bytes = Buffer.byteLength(text)
  const size = parseSize(0, bytes)
  const bind = Buffer.from([0x42, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0])
  const into = Buffer.allocUnsafe(size + bind.length + execute.length)
  writeParse(into, "", 0, text, bytes, 0)
  into.set(bind, size)
  into.set(execute, size + bind.length)
  return into
}

// A handful of texts: BEGIN with the isolations that there are.
const begins = new Map<string, Buffer>()

const beginOf = (text: string): Buffer => {
  const known = begins.get(text)
  if (known !== undefined) return known
  const made = run(text)
  if (begins.size < 100) begins.set(text, made)
  return made
}

/** Everything up to `Sync`. */
export const encode = ({ begin, close, describe, name, text, values }: Ask): Buffer => {
  const lead = begin === undefined ? undefined : beginOf(begin)
  const nameBytes = name.length === 0 ? 0 : Buffer.byteLength(name)
  const textBytes = text === undefined ? 0 : Buffer.byteLength(text)
  const closeBytes = close === undefined ? 0 : Buffer.byteLength(close)
  const tail = describe ? described : executed
  const count = values.length
  const lengths = new Array<number>(count)
  let bind = 1 + 4 + 1 + nameBytes + 1 + 2 + 2 + 4 * count + 2
  for (let index = 0; index < count; index++) {
    const value = values[index] as string | null
    const length = value === null ? -1 : Buffer.byteLength(value)
    lengths[index] = length
    if (length > 0) bind += length
  }
  const into = Buffer.allocUnsafe(
    (lead === undefined ? 0 : lead.length) +
      (close === undefined ? 0 : closeSize(closeBytes)) +
      (text === undefined ? 0 : parseSize(nameBytes, textBytes)) +
      bind +
      tail.length
  )
  let at = 0
  if (lead !== undefined) {
    into.set(lead, 0)
    at = lead.length
  }
  if (close !== undefined) {
    into[at] = 0x43
    into.writeInt32BE(closeSize(closeBytes) - 1, at + 1)
    into[at + 5] = 0x53
    at = writeText(into, close, closeBytes, at + 6)
  }
  if (text !== undefined) at = writeParse(into, name, nameBytes, text, textBytes, at)
  into[at] = 0x42
  into.writeInt32BE(bind - 1, at + 1)
  into[at + 5] = 0
  at = writeText(into, name, nameBytes, at + 6)
  // all values are text
  into.writeInt16BE(0, at)
  into.writeUInt16BE(count, at + 2)
  at += 4
  for (let index = 0; index < count; index++) {
    const length = lengths[index] as number
    into.writeInt32BE(length, at)
    at += 4
    if (length > 0) {
      into.write(values[index] as string, at, length, "utf8")
      at += length
    }
  }
  // and so are all columns
  into.writeInt16BE(0, at)
  into.set(tail, at + 2)
  return into
}
