/**
 * A reader of JSON values that come one a line (NDJSON), pushed in as bytes: any chunking, LF, CRLF or CR, characters
 * split between chunks, blank lines, a byte order mark, values with no line end between them, and the indented document
 * that a gateway sends in place of a stream. Plain mutable state in one closure, because it runs for every chunk.
 */
import { parse } from "./sse.ts"

/** What a reader hands on. */
export interface NdjsonHandler {
  readonly onValue: (value: unknown) => void
  /** A whole line that is not JSON, such as HTML. */
  readonly onJunk: () => void
}

/** Pushes bytes in, gets values out. */
export interface NdjsonReader {
  readonly push: (bytes: Uint8Array) => void
  /**
   * The body has ended: the last value may have no line end. What is not a value is dropped if it may be the beginning of
   * one, as the end cut it short, and is junk otherwise.
   */
  readonly end: () => void
}

const LF = 10
const CR = 13
const QUOTE = 34
const BACKSLASH = 92
const BRACKET = 91
const OPEN = 123
const CLOSE = 125

/** How a document that is written over several lines begins and ends: its last line is not indented. */
const opening = /^(?:\[|\[?\s*\{)$/
const closing = /^[}\]]/

/** A line of more characters than this is not an answer but a fault. */
const maxLine = 128 * 1024 * 1024

/** So many times it is tried whether a document over several lines is whole before the body has ended. */
const maxTries = 64

/**
 * The objects that stand in a text with nothing but blanks between them, as far as they are whole; `rest` is what follows
 * the last one.
 */
const objectsIn = (text: string): { readonly objects: ReadonlyArray<string>; readonly rest: string } => {
  const objects: Array<string> = []
  let depth = 0
  let start = 0
  let quoted = false
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (quoted) {
      if (code === BACKSLASH) at += 1
      else if (code === QUOTE) quoted = false
    } else if (code === QUOTE) quoted = true
    else if (code === OPEN) depth += 1
    else if (code === CLOSE && --depth === 0) {
      objects.push(text.slice(start, at + 1))
      start = at + 1
    } else if (depth < 0) break
  }
  return { objects, rest: text.slice(start).trim() }
}

/** A reader for one body. */
export const make = (handler: NdjsonHandler): NdjsonReader => {
  const decoder = new TextDecoder()
  // The unfinished line.
  let rest = ""
  let overflow = false
  // An indented document as far as it has come.
  let document: string | undefined
  let tries = 0

  /** Values with no line end between them; false if the text has something else. */
  const takeObjects = (text: string, ended: boolean): boolean => {
    if (text.charCodeAt(0) !== OPEN) return false
    const found = objectsIn(text)
    const values: Array<unknown> = []
    for (const object of found.objects) {
      const value = parse(object)
      if (value === undefined) return false
      values.push(value)
    }
    const open = found.rest.charCodeAt(0) === OPEN
    if (found.rest !== "" && !(ended && open)) return false
    for (const value of values) handler.onValue(value)
    return true
  }

  const onLine = (text: string) => {
    const line = text.trim()
    if (document !== undefined) {
      document += `\n${text}`
      if (document.length > maxLine) {
        overflow = true
        document = undefined
        handler.onJunk()
      } else if (tries < maxTries && closing.test(text)) {
        tries += 1
        const value = parse(document)
        if (value === undefined) return
        document = undefined
        handler.onValue(value)
      }
      return
    }
    if (line === "") return
    const value = parse(line)
    if (value !== undefined) handler.onValue(value)
    else if (opening.test(line)) {
      document = text
      tries = 0
    } else if (!takeObjects(line, false)) handler.onJunk()
  }

  const take = (text: string) => {
    let from = 0
    // A CR stands in no JSON text but between its tokens: it ends a line as a LF does.
    const hasCr = text.includes("\r")
    let at = hasCr ? lineEnd(text, 0) : text.indexOf("\n")
    while (at !== -1) {
      onLine(rest === "" ? text.slice(from, at) : rest + text.slice(from, at))
      rest = ""
      from = at + 1
      at = hasCr ? lineEnd(text, from) : text.indexOf("\n", from)
    }
    if (from === text.length) return
    rest = rest === "" ? text.slice(from) : rest + text.slice(from)
    if (rest.length > maxLine) {
      overflow = true
      rest = ""
      handler.onJunk()
    }
  }

  return {
    push: (bytes) => {
      const text = decoder.decode(bytes, { stream: true })
      if (text !== "" && !overflow) take(text)
    },
    end: () => {
      // What the end of the body cut short within a character is no character.
      decoder.decode()
      const line = rest.trim()
      rest = ""
      if (document !== undefined) {
        const value = parse(`${document}\n${line}`)
        document = undefined
        if (value !== undefined) handler.onValue(value)
        return
      }
      if (line === "") return
      const value = parse(line)
      if (value !== undefined) handler.onValue(value)
      else if (!takeObjects(line, true) && line.charCodeAt(0) !== BRACKET) handler.onJunk()
    }
  }
}

const lineEnd = (text: string, from: number): number => {
  for (let at = from; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code === LF || code === CR) return at
  }
  return -1
}
