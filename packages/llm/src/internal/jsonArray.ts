/**
 * A reader of one JSON array that is pushed bytes as they come and hands on each object or array in it as soon as it is
 * whole: the form in which Google streams to those who do not ask for server-sent events.
 */

/** Pushes bytes in, gets the text of elements out. */
export interface JsonArrayReader {
  readonly push: (bytes: Uint8Array) => void
  /** The body has ended. */
  readonly end: () => void
  /** Whether the closing bracket has come. */
  readonly ended: () => boolean
  /** Whether there is anything between the elements that does not belong there. */
  readonly hasJunk: () => boolean
}

const QUOTE = 34
const COMMA = 44
const OPEN_BRACKET = 91
const BACKSLASH = 92
const CLOSE_BRACKET = 93
const OPEN_BRACE = 123
const CLOSE_BRACE = 125
const BYTE_ORDER_MARK = 0xfeff

/** An element of more characters than this is not a piece of an answer but a fault. */
const maxElement = 128 * 1024 * 1024

const isBlank = (code: number): boolean =>
  code === 32 || code === 10 || code === 13 || code === 9 || code === BYTE_ORDER_MARK

/** A reader for one body, which begins with a bracket. */
export const make = (onElement: (text: string) => void): JsonArrayReader => {
  const decoder = new TextDecoder()
  // What came of the open element in earlier chunks.
  let pieces: Array<string> = []
  let length = 0
  let depth = 0
  let quoted = false
  let escaped = false
  let over = false
  let junk = false

  const take = (text: string) => {
    let from = 0
    for (let at = 0; at < text.length && !over; at++) {
      const code = text.charCodeAt(at)
      if (quoted) {
        if (escaped) escaped = false
        else if (code === BACKSLASH) escaped = true
        else if (code === QUOTE) quoted = false
      } else if (code === QUOTE) {
        quoted = true
        if (depth < 2) junk = true
      } else if (code === OPEN_BRACE || code === OPEN_BRACKET) {
        depth += 1
        if (depth === 2) from = at
      } else if (code === CLOSE_BRACE || code === CLOSE_BRACKET) {
        depth -= 1
        if (depth === 1) {
          pieces.push(text.slice(from, at + 1))
          const element = pieces.join("")
          pieces = []
          length = 0
          onElement(element)
        } else if (depth <= 0) over = true
      } else if (depth < 2 && code !== COMMA && !isBlank(code)) junk = true
    }
    if (depth > 1) {
      pieces.push(text.slice(from))
      length += text.length
    }
    if (length > maxElement) {
      pieces = []
      over = true
      junk = true
    }
  }

  return {
    push: (bytes) => {
      if (!over) take(decoder.decode(bytes, { stream: true }))
    },
    end: () => {
      if (!over) take(decoder.decode())
    },
    ended: () => over,
    hasJunk: () => junk
  }
}
