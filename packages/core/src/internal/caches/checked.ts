/**
 * What confirmation caches and sign-up caches check alike, and how they fail.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as Ttl from "../ttl.ts"
import type { Reason } from "./oneTimeModel.ts"
import { OneTimeStoreError } from "./oneTimeModel.ts"

export const failure = (
  reason: Reason,
  method: string,
  description: string,
  cause?: unknown
): Effect.Effect<never, OneTimeStoreError> =>
  Effect.fail(
    new OneTimeStoreError({
      reason,
      method,
      description,
      outcome: "not-done",
      ...(cause === undefined ? {} : { cause })
    })
  )

/** What every such cache has a name, perhaps a prefix and perhaps a secret for. */
export const names = (
  method: string,
  name: string,
  prefix: string | undefined,
  secret: Redacted.Redacted | undefined
): Effect.Effect<string, OneTimeStoreError> => {
  const full = `${prefix ?? ""}${name}`
  if (!namePattern.test(full)) {
    return failure("InvalidOptions", method, "a name is one to 128 letters, digits, dots, underscores and hyphens")
  }
  return secret !== undefined && Redacted.value(secret).length < 16
    ? failure("InvalidOptions", method, "a secret has 16 characters at the least")
    : Effect.succeed(full)
}

const namePattern = /^[A-Za-z0-9._-]{1,128}$/

/** A time of the options in whole milliseconds; zero where that may be. */
export const millis = (
  method: string,
  option: string,
  time: Duration.DurationInput,
  mayBeZero = false
): Effect.Effect<number, OneTimeStoreError> => {
  if (mayBeZero && isZero(time)) return Effect.succeed(0)
  return Either.match(Ttl.millis(time), {
    onRight: Effect.succeed,
    onLeft: (why) => failure("InvalidOptions", method, `${option}: ${why}`)
  })
}

/** A negative time is read as none at all, and is none that anybody meant. */
const isZero = (time: Duration.DurationInput): boolean =>
  !String(time).trim().startsWith("-") &&
  Option.exists(Duration.decodeUnknown(time), (one) => Duration.toMillis(one) === 0)

/** An e-mail address or a phone number as it is compared: case, outer space and the form of its letters do not count. */
export const usualIdentity = (identity: string): string => identity.trim().normalize("NFKC").toLowerCase()

/** The identity as it is compared, if it can be one. */
export const identified = (
  method: string,
  identity: (identity: string) => string,
  given: string
): Effect.Effect<string, OneTimeStoreError> => {
  const found = identity(given)
  if (found === "") return failure("InvalidKey", method, "it cannot be empty")
  return found.length > 1_024
    ? failure("InvalidKey", method, "it is longer than 1,024 characters")
    : Effect.succeed(found)
}

/** No value at all is one too: that of `Schema.Void`. */
const decodeEnvelope = Schema.decode(Schema.parseJson(Schema.Struct({ value: Schema.optional(Schema.Unknown) })))

/** How values of a schema are kept: as JSON. */
export interface Codec<A> {
  readonly encode: (method: string, value: A) => Effect.Effect<string, OneTimeStoreError>
  readonly decode: (method: string, text: string) => Effect.Effect<A, OneTimeStoreError>
}

export const codec = <A, I>(schema: Schema.Schema<A, I>): Codec<A> => {
  const encode = Schema.encode(schema)
  const decode = Schema.decodeUnknown(schema)
  return {
    // causes are left out: they hold the value
    encode: (method, value) =>
      Effect.matchEffect(encode(value), {
        onSuccess: (encoded) => Effect.succeed(JSON.stringify({ value: encoded })),
        onFailure: () => failure("InvalidValue", method, "what is to be kept does not encode by its schema")
      }),
    decode: (method, text) =>
      Effect.matchEffect(
        Effect.flatMap(decodeEnvelope(text), ({ value }) => decode(value)),
        {
          onSuccess: Effect.succeed,
          onFailure: () => failure("Corrupt", method, "what was kept does not decode by its schema")
        }
      )
  }
}
