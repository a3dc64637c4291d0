/** The headers of every request to a provider, revealed and looked at once, before anything is sent. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Redacted from "effect/Redacted"
import { LlmError } from "../LlmError.ts"
import type { CallContext } from "./classify.ts"

/** What HTTP lets stand in the value of a header. */
const sendable = /^[\t\x20-\x7e\x80-\xff]*$/

/**
 * The headers by lower-case name. On the left what is wrong with them, with the header's name only: a key that was copied
 * with a quotation mark or a dash of print would else fail at every request, as if the network were to blame.
 */
export const headersOf = (
  headers: Readonly<Record<string, string | Redacted.Redacted>> | undefined
): Either.Either<Record<string, string>, string> => {
  const revealed: Record<string, string> = {}
  for (const [name, given] of Object.entries(headers ?? {})) {
    const value = typeof given === "string" ? given : Redacted.value(given)
    if (!sendable.test(value)) {
      return Either.left(`the header ${name.toLowerCase()} (the API key?) has a character that no header can hold`)
    }
    revealed[name.toLowerCase()] = value
  }
  return Either.right(revealed)
}

/**
 * Headers that were asked for while a call is made, looked at in the same way. The client would call what no header can
 * hold a broken connection, and the call would be made again.
 */
export const authorized = (
  authorize: Effect.Effect<Readonly<Record<string, string>>, LlmError>,
  context: CallContext
): Effect.Effect<Readonly<Record<string, string>>, LlmError> =>
  Effect.flatMap(authorize, (given) =>
    Either.mapLeft(
      headersOf(given),
      () =>
        new LlmError({
          ...context,
          reason: "Authentication",
          issue:
            "the token has a character that no header can hold: give the token alone, without quotation marks, line breaks " +
            "and invisible characters",
          retryable: false,
          midStream: false
        })
    )
  )
