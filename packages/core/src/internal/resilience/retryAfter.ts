/**
 * When a service asks to be called again, as its headers say it: seconds, an HTTP date, or milliseconds.
 */

/** The headers that ask for a wait, the most exact first. */
export const headerNames = [
  "retry-after-ms",
  "x-ms-retry-after-ms",
  "grpc-retry-pushback-ms",
  "x-amz-retry-after",
  "retry-after",
  "x-retry-after"
] as const

/** All headers that are read: these, and the service's own clock. */
export const read: ReadonlyArray<string> = [...headerNames, "date"]

/** Those that count milliseconds, and know no dates. */
const inMillis: ReadonlySet<string> = new Set(headerNames.slice(0, headerNames.indexOf("retry-after")))

/** `After`: a wait from now. `At`: a moment in milliseconds since 1970. `Never`: the service forbids another attempt. */
export type RetryHint =
  | { readonly _tag: "After"; readonly millis: number }
  | { readonly _tag: "At"; readonly millis: number }
  | { readonly _tag: "Never" }

const decimal = /^\d+(?:\.\d+)?$/
const weekday = /^(?:mon|tue|wed|thu|fri|sat|sun)/i

const first = (value: unknown): string | undefined => {
  const text: unknown = Array.isArray(value) ? value[0] : value
  return typeof text === "string" ? text.trim() : undefined
}

/** The moment of an HTTP date (all three forms of RFC 9110, which begin with a weekday), or undefined. */
export const httpDate = (text: string): number | undefined => {
  if (!weekday.test(text)) return undefined
  // asctime ends with the year, without a zone, and is UTC, like the others.
  const millis = Date.parse(/ \d{4}$/.test(text) ? `${text} GMT` : text)
  return Number.isNaN(millis) ? undefined : millis
}

/**
 * What the headers ask for; their names in lower case. A value that cannot be read, of whatever type it is, is as good as
 * none.
 */
export const fromHeaders = (headers: Readonly<Record<string, unknown>>): RetryHint | undefined => {
  for (const name of headerNames) {
    const text = first(headers[name])
    if (text === undefined) continue
    if (name === "grpc-retry-pushback-ms" && text.startsWith("-")) return { _tag: "Never" }
    if (decimal.test(text)) {
      const value = Number(text)
      return { _tag: "After", millis: inMillis.has(name) ? value : value * 1000 }
    }
    const at = inMillis.has(name) ? undefined : httpDate(text)
    if (at === undefined) continue
    // The service's own clock, where it tells it, makes the answer independent of ours.
    const date = first(headers["date"])
    const theirs = date === undefined ? undefined : httpDate(date)
    return theirs === undefined ? { _tag: "At", millis: at } : { _tag: "After", millis: Math.max(0, at - theirs) }
  }
  return undefined
}
