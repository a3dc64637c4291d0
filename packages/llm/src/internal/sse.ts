/**
 * A reader of server-sent events that is pushed bytes as they come: any chunking, LF, CRLF or CR, characters split
 * between chunks, comments, data over several lines, a byte order mark. It is plain mutable state in one closure because
 * it runs for every chunk of every streamed answer: a line is sliced once and nothing is searched twice.
 */

/** What a reader hands on. */
export interface SseHandler {
  /**
   * One event. `raw` is true for JSON that stood in the body without `data:` before it, as gateways and some servers send
   * their errors; `complete` is false for what the end of the body cut short of its blank line.
   */
  readonly onEvent: (event: string, data: string, raw: boolean, complete: boolean) => void
}

/** Pushes bytes in, gets events out. */
export interface SseReader {
  readonly push: (bytes: Uint8Array) => void
  /** The body has ended: what is left over is handed on. */
  readonly end: () => void
  /** Whether the body has lines that are not server-sent events at all, such as HTML. */
  readonly hasJunk: () => boolean
}

const LF = 10
const SPACE = 32
const QUOTE = 34
const COLON = 58
const BACKSLASH = 92
const BRACE = 123
const CLOSING_BRACE = 125
const BRACKET = 91
const CLOSING_BRACKET = 93

/** An event of more characters than this is not an answer but a fault. */
const maxLine = 128 * 1024 * 1024

/** So many times it is tried whether a document over several lines is whole before its last line has come. */
const maxTries = 64

/** A reader for one body. */
export const make = (handler: SseHandler): SseReader => {
  const decoder = new TextDecoder()
  // The unfinished line.
  let rest = ""
  // The last line ended in CR: a LF at the start of the next chunk belongs to it.
  let skipLf = false
  let data = ""
  let hasData = false
  let event = ""
  let junk = false
  let overflow = false
  // A JSON document over several lines, sent in place of a stream, and how often it has been looked at.
  let document: string | undefined
  let tries = 0

  const dispatch = (complete: boolean) => {
    if (hasData || event === "error") {
      const name = event
      const text = data
      event = ""
      data = ""
      hasData = false
      handler.onEvent(name, text, false, complete)
    } else {
      event = ""
    }
  }

  const onDocument = (line: string) => {
    const text = `${document ?? ""}${line}\n`
    document = text
    if (text.length > maxLine) {
      overflow = true
      document = undefined
    } else if ((line === "}" || line === "]") && tries++ < maxTries && isJson(text)) {
      document = undefined
      handler.onEvent("", text, true, true)
    }
  }

  const onLine = (line: string) => {
    if (document !== undefined) {
      if (!line.startsWith("data:") && !line.startsWith("event:")) return onDocument(line)
      // Events after all: what began like a document was none.
      document = undefined
      junk = true
    }
    if (line.startsWith("data:")) {
      data = hasData ? `${data}\n${value(line, 5)}` : value(line, 5)
      hasData = true
      return
    }
    if (line === "") return dispatch(true)
    if (line.charCodeAt(0) === COLON) return
    if (line.startsWith("event:")) {
      event = value(line, 6)
      return
    }
    if (isDocument(line)) {
      dispatch(true)
      if (isJson(line)) return handler.onEvent("", line, true, true)
      document = `${line}\n`
      tries = 0
      return
    }
    if (isError(line)) {
      dispatch(true)
      return handler.onEvent("error", value(line, 6), false, true)
    }
    if (line === "data") {
      data = hasData ? `${data}\n` : ""
      hasData = true
      return
    }
    if (/^(?:id|retry|event)(?::|$)/.test(line)) return
    if (line.trim() !== "") junk = true
  }

  const take = (text: string) => {
    let from = 0
    if (skipLf) {
      skipLf = false
      if (text.charCodeAt(0) === LF) from = 1
    }
    let lf = text.indexOf("\n", from)
    let cr = text.indexOf("\r", from)
    while (lf !== -1 || cr !== -1) {
      if (cr !== -1 && (lf === -1 || cr < lf)) {
        onLine(rest === "" ? text.slice(from, cr) : rest + text.slice(from, cr))
        rest = ""
        from = cr + 1
        if (from === text.length) skipLf = true
        else if (lf === from) {
          from += 1
          lf = text.indexOf("\n", from)
        }
        cr = text.indexOf("\r", from)
      } else {
        onLine(rest === "" ? text.slice(from, lf) : rest + text.slice(from, lf))
        rest = ""
        from = lf + 1
        lf = text.indexOf("\n", from)
      }
    }
    if (from < text.length) {
      rest = rest === "" ? (from === 0 ? text : text.slice(from)) : rest + text.slice(from)
      if (rest.length > maxLine) {
        overflow = true
        rest = ""
      }
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
      if (document !== undefined) {
        handler.onEvent("", document + rest, true, false)
        return
      }
      if (rest !== "") {
        const line = rest
        rest = ""
        if (isDocument(line)) {
          dispatch(false)
          handler.onEvent("", line, true, false)
          return
        }
        if (/^(?:data|event):/.test(line) || isError(line)) onLine(line)
        else if (!beginsField(line)) junk = true
      }
      dispatch(false)
    },
    hasJunk: () => junk || overflow
  }
}

/** The value of a field, which a blank may stand before. */
const value = (line: string, from: number): string =>
  line.charCodeAt(from) === SPACE ? line.slice(from + 1) : line.slice(from)

const isJson = (text: string): boolean => parse(text) !== undefined

/** A field of llama.cpp's of 2025 and before, of which server-sent events know nothing: an error where data should stand. */
const isError = (line: string): boolean => line.startsWith("error:") && isJson(value(line, 6))

/** Whether a line is the beginning of a JSON object, or of a list of them. */
const isDocument = (line: string): boolean =>
  line.charCodeAt(0) === BRACE || (line.charCodeAt(0) === BRACKET && /^\[\s*(?:\{|$)/.test(line))

/** Whether a line that the end of the body cut short may have been one of an event. */
const beginsField = (line: string): boolean =>
  line.charCodeAt(0) === COLON ||
  line.trim() === "" ||
  ["data:", "event:", "id:", "retry:", "error:"].some((field) => field.startsWith(line) || line.startsWith(field))

/** JSON of more levels than this is nobody's answer, and whatever looks through it would run out of stack. */
const maxDepth = 512

/** Whether a text has more levels than that: told at once by the number of its brackets, else by counting them. */
const isTooDeep = (text: string): boolean => {
  let openings = 0
  for (const opening of ["[", "{"]) {
    for (let at = text.indexOf(opening); at !== -1 && openings <= maxDepth; at = text.indexOf(opening, at + 1))
      openings++
  }
  if (openings <= maxDepth) return false
  let depth = 0
  let quoted = false
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (quoted) {
      if (code === BACKSLASH) at += 1
      else if (code === QUOTE) quoted = false
    } else if (code === QUOTE) quoted = true
    else if (code === BRACE || code === BRACKET) {
      if (++depth > maxDepth) return true
    } else if (code === CLOSING_BRACE || code === CLOSING_BRACKET) depth -= 1
  }
  return false
}

/**
 * The value of a JSON text, or `undefined` if it is not JSON (which no JSON text stands for), or nested as deep as only
 * an attack is.
 */
export const parse = (text: string): unknown => {
  if (text.length > 2 * maxDepth && isTooDeep(text)) return undefined
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
