/**
 * One watched HTTP client for each model of a provider, so that each has its own breaker, made when a model is first asked
 * for.
 */
import * as HttpClient from "@effect/platform/HttpClient"
import * as ExternalHttp from "@underlay/core/external/ExternalHttp"
import type * as CircuitBreaker from "@underlay/core/resilience/CircuitBreaker"
import type * as ErrorClass from "@underlay/core/resilience/ErrorClass"
import * as Policy from "@underlay/core/resilience/Policy"
import type * as RetryPolicy from "@underlay/core/resilience/RetryPolicy"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { LlmError } from "../LlmError.ts"
import * as Errors from "./errors.ts"

/** How the clients of a provider are made. */
export interface ClientsOptions {
  readonly provider: string
  /** The usual model: its client is made at once. */
  readonly model: string
  /** `gen_ai.provider.name`. */
  readonly telemetryName: string
  /** Put behind the service's name, to tell what else is asked of the same model. */
  readonly suffix?: string | undefined
  readonly headers: Readonly<Record<string, string>>
  readonly timeout: Duration.DurationInput
  readonly retry: RetryPolicy.RetryPolicy | RetryPolicy.ExponentialOptions | false | undefined
  readonly breaker: Omit<CircuitBreaker.Options, "name"> | false | undefined
}

/** Gives the client of a model. */
export type ClientOf = (model: string) => Effect.Effect<ExternalHttp.ExternalHttp, LlmError>

/** More models than this by one layer are a mistake, or names that users made up: idle ones are forgotten. */
export const maxModels = 64

/** How a call is made again where nobody says otherwise: three attempts, by core's own rules. */
export const defaultRetry: RetryPolicy.ExponentialOptions = { base: "2 seconds" }

/** What a failed answer says of the provider: limits of ours or of the account are not its fault. */
const counts = (found: ErrorClass.Classification, error: unknown): CircuitBreaker.Outcome => {
  if (found.rejection === true) return "neutral"
  if (error instanceof LlmError) {
    switch (error.reason) {
      case "ServerError":
      case "Overloaded":
      case "Network":
      case "Timeout":
      case "StreamTruncated":
        return "failure"
      case "RateLimited":
        return "neutral"
      default:
        return "success"
    }
  }
  return found.class === "transient" || found.assumed === true
    ? "failure"
    : found.class === "permanent"
      ? "success"
      : "neutral"
}

/** Makes the clients. Fails with `InvalidRequest` for settings that cannot work together. */
export const make = (options: ClientsOptions): Effect.Effect<ClientOf, LlmError, HttpClient.HttpClient | Scope.Scope> =>
  Effect.gen(function* () {
    const { provider } = options
    const scope = yield* Effect.scope
    const http = yield* HttpClient.HttpClient
    const nameOf = (model: string) =>
      options.suffix === undefined ? `${provider}/${model}` : `${provider}/${model}/${options.suffix}`

    const policyOf = (model: string) =>
      Policy.make({
        name: nameOf(model),
        timeout: options.timeout,
        retry: options.retry ?? defaultRetry,
        breaker: options.breaker === false ? false : { counts, ...options.breaker }
      }).pipe(Effect.mapError((error) => Errors.unusable(options, error.problems.join("; "))))

    // They are made within the layer's own context: the ids and deadlines of whoever asks first are not theirs.
    const clients = new Map<
      string,
      { readonly client: ExternalHttp.ExternalHttp; readonly scope: Scope.CloseableScope }
    >()
    const making = yield* Effect.makeSemaphore(1)

    const makeClient = (model: string) =>
      Effect.gen(function* () {
        const policy = yield* policyOf(model)
        const own = yield* Scope.fork(scope, scope.strategy)
        const client = yield* ExternalHttp.make({
          service: nameOf(model),
          policy,
          headers: options.headers,
          attributes: { "gen_ai.provider.name": options.telemetryName },
          slowAfter: "30 seconds"
        }).pipe(Scope.extend(own), Effect.provideService(HttpClient.HttpClient, http))
        return { client, scope: own }
      })

    const forgetOne = Effect.gen(function* () {
      for (const [model, { client, scope }] of clients) {
        if (model === options.model || (yield* client.inFlight) > 0) continue
        if (client.breaker !== undefined && (yield* client.breaker.state) !== "closed") continue
        clients.delete(model)
        return yield* Scope.close(scope, Exit.void)
      }
    })

    const context = yield* Effect.context<never>()
    const clientOf: ClientOf = (model) =>
      Effect.suspend(() => {
        const known = clients.get(model)
        if (known !== undefined) {
          clients.delete(model)
          clients.set(model, known)
          return Effect.succeed(known.client)
        }
        return making
          .withPermits(1)(
            Effect.suspend(() => {
              const made = clients.get(model)
              if (made !== undefined) return Effect.succeed(made.client)
              return Effect.gen(function* () {
                if (clients.size >= maxModels) yield* forgetOne
                const entry = yield* makeClient(model)
                clients.set(model, entry)
                return entry.client
              })
            })
          )
          .pipe(
            Effect.uninterruptible,
            Effect.mapInputContext(() => context)
          )
      })

    // The usual model's, so that settings which cannot work stop the start and its health shows from the beginning.
    yield* clientOf(options.model)
    return clientOf
  })
