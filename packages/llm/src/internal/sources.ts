/**
 * The sources of one answer: each told once, with the place in the answer's text to which it belongs.
 */
import type { LlmSource } from "../LlmResponse.ts"
import { count } from "./wire.ts"

/** What a provider counts its places in. */
export type Unit = "utf16" | "characters" | "bytes"

/** A place as the provider says it, if it does. */
export interface Span {
  readonly start: unknown
  readonly end: unknown
  readonly unit: Unit
  /** Where in the whole text counting begins, in UTF-16 code units. 0. */
  readonly base?: number | undefined
  /** Other places where it may begin, in case that the words there are others. */
  readonly others?: ReadonlyArray<number> | undefined
  /** The words of that place. */
  readonly words?: string | undefined
}

interface Range {
  readonly start: number
  readonly end: number
}

// The last half of a pair counts for the whole, so that no place is in its middle.
const sizeOf = (code: number, unit: Unit): number => {
  const low = code >= 0xdc00 && code <= 0xdfff
  const high = code >= 0xd800 && code <= 0xdbff
  if (unit === "characters") return high ? 0 : 1
  if (unit === "utf16") return 1
  return code < 0x80 ? 1 : code < 0x800 ? 2 : high ? 0 : low ? 4 : 3
}

const block = 1024

/** A text that grows, measured block by block, so that a place in it is found without reading all that is before it. */
class Measured {
  length = 0
  private readonly blocks: Array<string> = []
  /** What is before each block. */
  private readonly before = { characters: [0], bytes: [0] }
  private rest = ""

  add(text: string): void {
    this.length += text.length
    const added = this.rest + text
    let at = 0
    for (; added.length - at >= block; at += block) this.push(added.slice(at, at + block))
    this.rest = at === 0 ? added : added.slice(at)
  }

  private push(text: string): void {
    let characters = this.before.characters.at(-1) ?? 0
    let bytes = this.before.bytes.at(-1) ?? 0
    for (let at = 0; at < text.length; at++) {
      const code = text.charCodeAt(at)
      characters += sizeOf(code, "characters")
      bytes += sizeOf(code, "bytes")
    }
    this.blocks.push(text)
    this.before.characters.push(characters)
    this.before.bytes.push(bytes)
  }

  private blockAt(index: number): string {
    return this.blocks[index] ?? this.rest
  }

  slice(start: number, end: number): string {
    const pieces: Array<string> = []
    for (let index = Math.floor(start / block); index <= Math.floor(end / block); index++) {
      const from = index * block
      pieces.push(this.blockAt(index).slice(Math.max(0, start - from), Math.max(0, end - from)))
    }
    return pieces.join("")
  }

  /** The place that is `offset` units behind `base`; `undefined` if the text does not reach so far. */
  find(base: number, offset: number, unit: Unit): number | undefined {
    if (base > this.length) return undefined
    if (unit === "utf16") return base + offset <= this.length ? base + offset : undefined
    const before = this.before[unit]
    const first = Math.floor(base / block)
    let target = (before[first] ?? 0) + offset
    const head = this.blockAt(first)
    for (let at = 0; at < base - first * block; at++) target += sizeOf(head.charCodeAt(at), unit)
    // The last block before which there is less than that.
    let low = 0
    let high = before.length - 1
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if ((before[middle] ?? 0) < target) low = middle
      else high = middle - 1
    }
    const text = this.blockAt(low)
    let sum = before[low] ?? 0
    let at = 0
    for (; at < text.length && sum < target; at++) sum += sizeOf(text.charCodeAt(at), unit)
    return sum < target ? undefined : low * block + at
  }
}

const placeOf = (value: unknown): number | undefined => {
  const number = count(value)
  return number !== undefined && Number.isInteger(number) && number >= 0 ? number : undefined
}

const identityOf = (source: LlmSource): string =>
  source.sourceType === "url"
    ? source.url
    : JSON.stringify(
        source.id === undefined && source.index === undefined
          ? [source.title]
          : [source.id, source.containerId, source.index]
      )

export class Sources {
  readonly all: Array<LlmSource> = []
  private readonly text: () => string
  private readonly tell: (source: LlmSource) => void
  private readonly told = new Set<string>()
  private readonly named = new Set<string>()
  /** Made when the first place is looked for: what is without any costs nothing. */
  private measured: Measured | undefined
  /** Those whose place is further than the text has come. */
  private waiting: Array<{ readonly source: LlmSource; readonly span: Span }> = []

  /** `text` gives all that has come; more of it comes by `onText`. */
  constructor(text: () => string, tell: (source: LlmSource) => void = () => {}) {
    this.text = text
    this.tell = tell
  }

  get field(): { readonly sources?: ReadonlyArray<LlmSource> } {
    return this.all.length === 0 ? {} : { sources: this.all }
  }

  onText(text: string): void {
    if (this.measured !== undefined) this.measured.add(text)
  }

  add(source: LlmSource, span?: Span): void {
    const start = placeOf(span?.start)
    const end = placeOf(span?.end)
    // An empty place is none.
    if (span === undefined || start === undefined || end === undefined || end <= start) {
      this.put(source)
      return
    }
    const range = this.rangeOf(span, start, end)
    if (range === undefined) this.waiting.push({ source, span })
    else this.put(range === "other" ? source : { ...source, ...range })
  }

  /** The text is whole: places that it does not have are left out. */
  settle(): void {
    const { waiting } = this
    this.waiting = []
    for (const { source, span } of waiting) {
      const range = this.rangeOf(span, Number(span.start), Number(span.end))
      this.put(range === undefined || range === "other" ? source : { ...source, ...range })
    }
  }

  /** The place; `undefined` if the text does not reach so far, `other` if what stands there are other words. */
  private rangeOf(span: Span, start: number, end: number): Range | "other" | undefined {
    const measured = this.measure()
    const { base = 0, others = [], unit, words } = span
    let found: "other" | undefined
    for (const from of words === undefined ? [base] : [base, ...others]) {
      const range = { start: measured.find(from, start, unit), end: measured.find(from, end, unit) }
      if (range.start === undefined || range.end === undefined) continue
      if (range.start === range.end) continue
      if (words === undefined || measured.slice(range.start, range.end) === words) {
        return { start: range.start, end: range.end }
      }
      found = "other"
    }
    return found
  }

  private measure(): Measured {
    if (this.measured === undefined) {
      this.measured = new Measured()
      this.measured.add(this.text())
    }
    return this.measured
  }

  private put(source: LlmSource): void {
    const identity = identityOf(source)
    const { end, quote, sourceType, start } = source
    // Nothing but its name is said, which is known.
    const name = `${sourceType} ${identity}`
    if (start === undefined && quote === undefined && this.named.has(name)) return
    const key = JSON.stringify([sourceType, identity, start, end, quote])
    if (this.told.has(key)) return
    this.named.add(name)
    this.told.add(key)
    this.all.push(source)
    this.tell(source)
  }
}
