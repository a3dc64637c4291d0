/**
 * The options of a handle, checked and with their defaults.
 */
import * as Duration from "effect/Duration"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Ttl from "../ttl.ts"
import type { Backend, Options } from "./model.ts"

export interface Settings {
  readonly namespace: string
  readonly prefix: string
  readonly strict: boolean
  readonly ttl: number
  readonly jitter: number
  readonly staleFor: number
  readonly graceFor: number
  /** For how long after its freshness an entry is kept. */
  readonly keep: number
  readonly graceBackoff: number
  readonly earlyRefresh: number
  readonly negativeTtl: number
  readonly firstTier: { readonly capacity: number; readonly ttl: number } | undefined
  readonly compressAbove: number | undefined
  readonly lease: { readonly ttl: number; readonly wait: number } | undefined
  readonly generations: boolean
  /** Whether it matters how much is left of an entry's time. */
  readonly timed: boolean
}

/** The settings, or why they cannot be. */
export const make = <A, I>(backend: Backend, options: Options<A, I>): Either.Either<Settings, string> => {
  if (!namespacePattern.test(options.namespace)) {
    return Either.left("a namespace is one to 128 letters, digits, dots, underscores and hyphens")
  }
  const jitter = options.jitter ?? 0.05
  if (!(jitter >= 0 && jitter <= 1)) return Either.left("the jitter must be between 0 and 1")
  const earlyRefresh = options.earlyRefresh ?? 0
  if (!(earlyRefresh >= 0 && earlyRefresh < Number.POSITIVE_INFINITY)) {
    return Either.left("the factor of the early refresh must be a number from 0")
  }
  const { compressAbove } = options
  if (compressAbove !== undefined && !(compressAbove >= 0)) {
    return Either.left("the size above which entries are compressed must be a number from 0")
  }
  const capacity = options.firstTier?.capacity ?? 1_000
  if (!(Number.isInteger(capacity) && capacity > 0)) {
    return Either.left("the capacity of the first tier must be a whole number from 1")
  }
  if (options.firstTier !== undefined && backend.listen === undefined) {
    return Either.left("a first tier needs a backend that tells of changes")
  }
  if (options.clearBy === "generation" && backend.stamps === undefined) {
    return Either.left("generations need a backend with stamps")
  }
  return Either.gen(function* () {
    const ttl = yield* Ttl.millis(options.ttl ?? "10 minutes")
    const optional = (value: Options<A, I>["ttl"]) => (value === undefined ? Either.right(0) : Ttl.millis(value))
    const staleFor = yield* optional(options.staleFor)
    const graceFor = yield* optional(options.graceFor)
    const graceBackoff = yield* optional(options.graceBackoff)
    const negativeTtl = yield* options.negativeTtl === undefined
      ? Either.right(Math.min(ttl, 30_000))
      : Ttl.millis(options.negativeTtl)
    const tierTtl = yield* Ttl.millis(options.firstTier?.ttl ?? "1 minute")
    const lease = options.lease === false ? undefined : (options.lease ?? {})
    const leaseTtl = yield* Ttl.millis(lease?.ttl ?? "10 seconds")
    // not to wait at all is a choice too
    const wait = isZero(lease?.wait) ? 0 : yield* Ttl.millis(lease?.wait ?? leaseTtl)
    return {
      namespace: options.namespace,
      prefix: `cache:${options.namespace}:`,
      strict: options.strict === true,
      ttl,
      jitter,
      staleFor,
      graceFor,
      keep: Math.max(staleFor, graceFor),
      graceBackoff,
      earlyRefresh,
      negativeTtl,
      firstTier: options.firstTier === undefined ? undefined : { capacity, ttl: tierTtl },
      compressAbove,
      lease: lease === undefined || backend.leases === undefined ? undefined : { ttl: leaseTtl, wait },
      generations: options.clearBy === "generation",
      timed: staleFor > 0 || graceFor > 0 || earlyRefresh > 0 || options.firstTier !== undefined
    }
  })
}

const isZero = (duration: Duration.DurationInput | undefined): boolean =>
  Option.exists(Duration.decodeUnknown(duration), (one) => Duration.toMillis(one) === 0)

/** Keys that begin so belong to no namespace: no namespace can begin with a tilde. */
export const tagKey = (namespace: string, tag: string): string => `cache:~tag:${namespace}:${tag}`

export const generationKey = (namespace: string): string => `cache:~generation:${namespace}`

const namespacePattern = /^[A-Za-z0-9._-]{1,128}$/
