/**
 * Arguments of a call that come in pieces, each with the JSON path (RFC 9535) of the place it belongs to, as Gemini
 * streams them.
 */
import { isRecord } from "./classify.ts"

type Step = string | number

/** A place deeper than this is not one of an argument, and could not be written as JSON. */
const maxSteps = 500

/** Lists of one call with more gaps than this in all are not arguments but a fault. */
const maxGaps = 10_000

const escapes: Readonly<Record<string, string>> = { b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" }

const unescaped = (text: string): string =>
  text.replace(/\\(?:u([0-9a-fA-F]{4})|(.))/gs, (_, code: string | undefined, character: string | undefined) =>
    code === undefined ? (escapes[character ?? ""] ?? character ?? "") : String.fromCharCode(Number.parseInt(code, 16))
  )

const segment = /\.([^.[\]]+)|\[(?:(\d+)|'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")\]/gsy

/** The steps of a path to one place, such as `$.a[0]['b c']`; `undefined` for anything else. */
export const stepsOf = (path: string): ReadonlyArray<Step> | undefined => {
  const steps: Array<Step> = []
  let at = path.startsWith("$") ? 1 : 0
  // Without the root, the first name has no dot.
  const text = at === 1 || path.startsWith("[") ? path : `.${path}`
  while (at < text.length) {
    segment.lastIndex = at
    const match = segment.exec(text)
    if (match === null || steps.length === maxSteps) return undefined
    const [whole, name, index, single, double] = match
    steps.push(index === undefined ? (name ?? unescaped(single ?? double ?? "")) : Number(index))
    at += whole.length
  }
  return steps
}

type Container = Record<string, unknown> | Array<unknown>

const get = (container: Container, step: Step): unknown =>
  Object.hasOwn(container, step) ? (container as Record<Step, unknown>)[step] : undefined

const put = (container: Container, step: Step, value: unknown) => {
  // An assignment to a name such as `__proto__` would not make a property.
  Object.defineProperty(container, step, { value, writable: true, enumerable: true, configurable: true })
}

/** Collects the pieces of one call's arguments. */
export class PartialArgs {
  /** The arguments so far. */
  readonly value: Record<string, unknown> = {}
  /** The paths of texts that go on. */
  private readonly open = new Set<string>()
  private gaps = 0

  /** Takes whole arguments, by name. */
  merge(args: Readonly<Record<string, unknown>>): void {
    for (const [name, value] of Object.entries(args)) put(this.value, name, value)
  }

  /** Takes one piece; what is no piece is passed over. */
  add(piece: unknown): void {
    if (!isRecord(piece) || typeof piece["jsonPath"] !== "string") return
    const steps = stepsOf(piece["jsonPath"])
    if (steps === undefined || steps.length === 0) return
    const place = steps.map((step) => JSON.stringify(step)).join()
    const goesOn = this.open.has(place)
    // A piece without a value only says that its place goes on or that it is whole.
    if (piece["willContinue"] === true) this.open.add(place)
    else this.open.delete(place)
    const value = valueOf(piece)
    if (value !== undefined) this.set(steps, value, goesOn)
  }

  private set(steps: ReadonlyArray<Step>, value: unknown, append: boolean): void {
    let container: Container = this.value
    for (const [position, step] of steps.entries()) {
      // A name in a list, or a number in an object, is a name.
      const key = Array.isArray(container) ? step : String(step)
      if (Array.isArray(container)) {
        if (typeof key !== "number") return
        const gap = key - container.length
        if (gap > maxGaps - this.gaps) return
        if (gap > 0) this.gaps += gap
        while (container.length < key) container.push(null)
      }
      const next = steps[position + 1]
      const before = get(container, key)
      if (next === undefined) {
        const joined = append && typeof before === "string" && typeof value === "string" ? before + value : value
        put(container, key, joined)
        return
      }
      if (Array.isArray(before) || isRecord(before)) {
        container = before as Container
        continue
      }
      const made: Container = typeof next === "number" ? [] : {}
      put(container, key, made)
      container = made
    }
  }
}

/** The value of a piece; `undefined` if it has none. */
const valueOf = (piece: Readonly<Record<string, unknown>>): unknown => {
  for (const key of ["stringValue", "numberValue", "boolValue"]) {
    if (piece[key] !== undefined && piece[key] !== null) return piece[key]
  }
  return piece["nullValue"] === undefined ? undefined : null
}
