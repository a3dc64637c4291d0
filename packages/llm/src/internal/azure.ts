/** What chat and embeddings on Azure have in common: tokens of Microsoft Entra, and the address of a resource. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { LlmError } from "../LlmError.ts"

/** A token and when it ends, in milliseconds since 1970. */
interface Token {
  readonly token: Redacted.Redacted
  readonly expiresAt: number
}

// A token is replaced this long before its end, or after half of its life if that is shorter.
const marginMillis = 5 * 60_000

const isToken = (value: Redacted.Redacted | Token): value is Token => !Redacted.isRedacted(value)

/** Asks for tokens: one at a time, and none while the last one is good. */
export const makeTokens = (
  at: { readonly provider: string; readonly model: string },
  token: Effect.Effect<Redacted.Redacted | Token, unknown>
) =>
  Effect.map(Effect.makeSemaphore(1), (asking) => {
    let known: { readonly token: Redacted.Redacted; readonly until: number } | undefined

    const failed = (cause: unknown) =>
      cause instanceof LlmError
        ? cause
        : new LlmError({
            reason: "Authentication",
            method: "token",
            provider: at.provider,
            model: at.model,
            issue: "no token could be had",
            retryable: false,
            midStream: false,
            cause
          })

    const ask = Effect.mapError(token, failed)
    // Tokens that do not say when they end are asked for all the time: those who ask need not wait for each other.
    let lasting = true

    const fresh = Effect.flatMap(Clock.currentTimeMillis, (now) =>
      known !== undefined && now < known.until
        ? Effect.succeed(known.token)
        : Effect.map(ask, (given) => {
            lasting = isToken(given)
            if (!isToken(given)) return given
            known = { token: given.token, until: given.expiresAt - Math.min(marginMillis, (given.expiresAt - now) / 2) }
            return given.token
          })
    )
    const queued = asking.withPermits(1)(
      Effect.suspend(() => (lasting ? Effect.map(fresh, Effect.succeed) : Effect.succeed(fresh)))
    )

    return {
      authorize: Effect.map(
        Effect.suspend(() => (lasting ? Effect.flatten(queued) : fresh)),
        // One that was read from a file ends with its last line.
        (given) => ({ authorization: `Bearer ${Redacted.value(given).trim()}` })
      ),
      /** After a refusal: the token may have been revoked. */
      forget: (error: { readonly reason: string }) =>
        Effect.sync(() => {
          if (error.reason === "Authentication") known = undefined
        })
    }
  })

// What the portal and the documentation put after the address of a resource, down to the operations.
const operations =
  /\/openai(?:\/(?:v1|deployments|responses|chat|embeddings|models)(?:\/.*)?)?$|\/models(?:\/(?:chat\/completions|embeddings|info))?$/i

/** The resource's address, of whatever its owner copied from the portal. */
export const resourceOf = (endpoint: string): string =>
  endpoint
    .trim()
    .replace(/[?#].*$/, "")
    .replace(/\/+$/, "")
    .replace(operations, "")
    .replace(/\/+$/, "")
