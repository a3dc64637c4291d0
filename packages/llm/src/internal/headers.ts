/** The headers of every request to a provider, revealed and looked at once, before anything is sent. */
import * as Either from "effect/Either"
import * as Redacted from "effect/Redacted"

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
