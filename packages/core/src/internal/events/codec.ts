/**
 * Events as text and back. What goes wrong is said without what the event holds.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import * as PlainJson from "../plainJson.ts"
import type { Message, StoredEntry } from "./model.ts"
import * as Topics from "./topics.ts"

export type Decoded<A> = Message<A>

/** An entry and the partition it is in. */
export interface Located {
  readonly entry: StoredEntry
  readonly partition: number
}

/** Where a schema was not met. */
const places = (error: ParseResult.ParseError): string => {
  const issues = ParseResult.ArrayFormatter.formatErrorSync(error)
  const all = issues
    .slice(0, 5)
    .map(({ _tag, path }) => `${_tag} at ${path.length === 0 ? "the top" : path.map(String).join(".")}`)
  return issues.length > 5 ? `${all.join(", ")}, and more` : all.join(", ")
}

export const encode = <A, I>(schema: Schema.Schema<A, I>, event: A): Effect.Effect<string, string> =>
  Effect.matchEffect(Schema.encode(schema)(event), {
    onFailure: (error) => Effect.fail(`the event is not of the topic's schema: ${places(error)}`),
    onSuccess: (encoded) => {
      const problem = PlainJson.problemOf(encoded)
      return problem === undefined
        ? Effect.succeed(JSON.stringify(encoded))
        : Effect.fail(`the event holds what JSON does not have: ${problem}`)
    }
  })

/** What a schema throws is a reason like any other: what is stored must not stop who reads it. */
export const decode = <A, I>(schema: Schema.Schema<A, I>, entry: StoredEntry): Effect.Effect<A, string> => {
  const json = PlainJson.parse(entry.data)
  if (json === undefined) return Effect.fail("it is no JSON")
  return Effect.catchAllDefect(
    Effect.mapError(
      Effect.suspend(() => Schema.decodeUnknown(schema)(json)),
      places
    ),
    () => Effect.fail("decoding it throws")
  )
}

export const encodeHeaders = (
  headers: Readonly<Record<string, string>> | undefined
): Either.Either<string | undefined, string> => {
  if (headers === undefined) return Either.right(undefined)
  const all = Object.entries(headers)
  if (all.some(([, value]) => typeof value !== "string")) return Either.left("the value of a header must be text")
  return Either.right(all.length === 0 ? undefined : JSON.stringify(headers))
}

export const decodeHeaders = (text: string | undefined): Readonly<Record<string, string>> => {
  const json = text === undefined ? undefined : PlainJson.parse(text)
  if (!PlainJson.isObject(json)) return {}
  const headers: Record<string, string> = {}
  for (const [name, value] of Object.entries(json)) {
    // as JSON.parse does it: `__proto__` is a name like any other
    if (typeof value === "string") {
      Object.defineProperty(headers, name, { value, enumerable: true, configurable: true, writable: true })
    }
  }
  return headers
}

/** 128 random bits. */
export const randomId = (): string => {
  let text = ""
  for (const byte of crypto.getRandomValues(new Uint8Array(16))) text += byte.toString(16).padStart(2, "0")
  return text
}

export const message = <A>(
  topic: string,
  partition: number,
  entry: StoredEntry,
  deliveries: number,
  event: A
): Message<A> => ({
  topic,
  id: entry.id,
  key: entry.key,
  headers: decodeHeaders(entry.headers),
  position: Topics.inTopic(entry.position, partition),
  publishedAt: entry.publishedAt ?? Topics.timeOf(entry.position),
  deliveries,
  event
})
