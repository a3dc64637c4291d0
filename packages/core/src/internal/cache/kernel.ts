/**
 * What reading, writing and computing share: the settings, the counters, and how entries become texts and values again.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import * as Ttl from "../ttl.ts"
import * as Envelope from "./envelope.ts"
import type { FirstTier } from "./firstTier.ts"
import type { Backend, BackendEntry, Found, Options, Origin, Reason, Stats, WriteOptions } from "./model.ts"
import { CacheError } from "./model.ts"
import * as PlainSchema from "./plainSchema.ts"
import * as Settings from "./settings.ts"

type Counts = { -readonly [K in Exclude<keyof Stats, "firstTierSize">]: number }

/** A value that was read. */
export interface Entry<A> {
  readonly value: Option.Option<A>
  /** How long it is fresh still, in milliseconds; less than zero is how long it is not. */
  readonly left: number
  readonly took: number
  readonly tags: ReadonlyArray<string>
}

/** What a text says, before its stamps are compared. */
export interface Parsed<A> {
  readonly entry: Entry<A>
  readonly stamps: ReadonlyArray<readonly [name: string, stamp: string | undefined]> | undefined
}

/** The stamps that an entry is written with. */
export interface Stamped {
  readonly tags: Readonly<Record<string, string>> | undefined
  readonly generation: string | undefined
}

/** What is to be written. */
export interface Prepared {
  readonly entry: BackendEntry
  readonly fresh: number
}

export interface Kernel<A> {
  readonly backend: Backend
  readonly settings: Settings.Settings
  readonly counts: Counts
  readonly tier: FirstTier<A> | undefined
  /** Who makes changes. It is another after one whose outcome is unknown, so that its late message is heard. */
  readonly by: () => Origin
  readonly doubt: () => void
  readonly newToken: () => string
  /** Counts a failure of the backend, or what it was not asked because it cannot be. */
  readonly count: (error: CacheError) => void
  /** A failing backend: counted, and a failure only where the handle is strict. */
  readonly guard: <B, C, R>(effect: Effect.Effect<B, CacheError, R>, otherwise: C) => Effect.Effect<B | C, never, R>
  /** What was found, read but not compared with anything: an entry, unless it has stamps. */
  readonly parse: (found: Exclude<Found, undefined>) => Parsed<A> | "corrupt" | "untimed"
  /** What was read as an entry, or nothing. */
  readonly settle: (
    key: string,
    parsed: Parsed<A> | "corrupt" | "untimed"
  ) => Effect.Effect<Entry<A> | undefined, CacheError>
  /** What was found as an entry, or nothing: what cannot be read is removed, and neither it nor the outdated counts. */
  readonly accept: (key: string, found: Found) => Effect.Effect<Entry<A> | undefined, CacheError>
  readonly acceptMany: (
    keys: ReadonlyArray<string>,
    found: ReadonlyArray<Found>
  ) => Effect.Effect<ReadonlyArray<Entry<A> | undefined>, CacheError>
  readonly stamp: (write: WriteOptions | undefined, method: string) => Effect.Effect<Stamped, CacheError>
  readonly prepare: (
    key: string,
    value: Option.Option<A>,
    write: WriteOptions | undefined,
    stamped: Stamped,
    took: number,
    method: string
  ) => Effect.Effect<Prepared, CacheError>
}

export const failure = (reason: Reason, method: string, description: string): Effect.Effect<never, CacheError> =>
  Effect.fail(new CacheError({ reason, method, description }))

/** Stamps outlive the entries that have them by this much at the least, in milliseconds. */
const stampMargin = 60_000

const unstamped: Stamped = { tags: undefined, generation: undefined }

const noTags: ReadonlyArray<string> = []

export const make = <A, I>(
  backend: Backend,
  settings: Settings.Settings,
  options: Options<A, I>,
  tier: FirstTier<A> | undefined
): Kernel<A> => {
  const { namespace, prefix, strict } = settings
  const decodeValue = Schema.decodeUnknownEither(options.schema)
  const encodeValue = Schema.encodeEither(Schema.parseJson(options.schema))
  const structure = options.trusted === true ? PlainSchema.inspect(options.schema.ast) : undefined
  // without one nothing is trusted
  const version = structure?.plain === true ? (options.version ?? structure.fingerprint) : undefined

  const counts: Counts = {
    hits: 0,
    firstTierHits: 0,
    misses: 0,
    negativeHits: 0,
    stale: 0,
    graced: 0,
    loads: 0,
    refreshes: 0,
    refreshFailures: 0,
    joined: 0,
    awaited: 0,
    writes: 0,
    outdated: 0,
    corrupt: 0,
    invalidated: 0,
    unreachable: 0,
    refused: 0,
    messages: 0,
    flushes: 0
  }

  const id = randomId()
  let epoch = 0
  let by: Origin = { namespace, prefix, from: id }
  let tokens = 0

  const count = (error: CacheError): void => {
    if (error.reason === "InvalidValue" || error.reason === "InvalidTtl" || error.reason === "InvalidOptions") {
      counts.refused++
    } else counts.unreachable++
  }

  const guard = <B, C, R>(effect: Effect.Effect<B, CacheError, R>, otherwise: C): Effect.Effect<B | C, never, R> =>
    Effect.catchAll(effect, (error) => {
      count(error)
      // the type of a strict handle has this error: see the signatures of make
      return strict ? (Effect.fail(error) as unknown as Effect.Effect<C>) : Effect.succeed(otherwise)
    })

  const discard = (keys: ReadonlyArray<string>): Effect.Effect<undefined> => {
    counts.corrupt += keys.length
    return Effect.as(guard(backend.discard(keys.map((key) => prefix + key)), undefined), undefined)
  }

  const decode = (envelope: Envelope.Envelope): Option.Option<Option.Option<A>> => {
    if (envelope.none) return Option.some(Option.none())
    // who wrote it made sure that it reads back as it is
    if (version !== undefined && envelope.schema === version) return Option.some(Option.some(envelope.value as A))
    const decoded = decodeValue(envelope.value)
    return Either.isRight(decoded) ? Option.some(Option.some(decoded.right)) : Option.none()
  }

  const parse = (found: Exclude<Found, undefined>): Parsed<A> | "corrupt" | "untimed" => {
    const envelope = found === "unreadable" ? undefined : Envelope.decode(found.text)
    const value = envelope === undefined ? Option.none() : decode(envelope)
    if (envelope === undefined || found === "unreadable" || Option.isNone(value)) return "corrupt"
    // another handle keeps its entries longer than they are fresh: this one has not asked how long that is
    if (envelope.keep > 0 && found.left === undefined) return "untimed"
    const { left } = found
    const entry = {
      value: value.value,
      // a key without an end, or one whose end nobody asked for
      left: left === undefined || left < 0 ? Number.POSITIVE_INFINITY : left - envelope.keep,
      took: envelope.took,
      tags: envelope.tags === undefined ? noTags : Object.keys(envelope.tags)
    }
    return { entry, stamps: stampsOf(envelope) }
  }

  const stampsOf = (envelope: Envelope.Envelope): Parsed<A>["stamps"] => {
    const { generation, tags } = envelope
    if (tags === undefined && generation === undefined && !settings.generations) return undefined
    const stamps: Array<readonly [string, string | undefined]> = []
    if (settings.generations || generation !== undefined) stamps.push([Settings.generationKey(namespace), generation])
    for (const [tag, stamp] of Object.entries(tags ?? {})) stamps.push([Settings.tagKey(namespace, tag), stamp])
    return stamps
  }

  const currentStamps = (names: ReadonlyArray<string>): Effect.Effect<ReadonlyArray<string | undefined>, CacheError> =>
    backend.stamps === undefined
      ? failure("Rejected", "get", "the entry has tags, and its backend no stamps")
      : backend.stamps.get(names)

  const timedAgain = (key: string): Effect.Effect<Entry<A> | undefined, CacheError> =>
    Effect.flatMap(backend.get(prefix + key, true), (found) =>
      // a backend that does not say how long it keeps an entry cannot say whether it is fresh
      typeof found === "object" && found.left === undefined ? Effect.succeed(undefined) : accept(key, found)
    )

  const accept = (key: string, found: Found): Effect.Effect<Entry<A> | undefined, CacheError> =>
    found === undefined ? Effect.succeed(undefined) : settle(key, parse(found))

  const settle: Kernel<A>["settle"] = (key, parsed) => {
    if (parsed === "corrupt") return discard([key])
    if (parsed === "untimed") return timedAgain(key)
    const { entry, stamps } = parsed
    if (stamps === undefined) return Effect.succeed(entry)
    return Effect.map(currentStamps(stamps.map(([name]) => name)), (current) => {
      if (stamps.every(([, stamp], index) => stamp !== undefined && stamp === current[index])) return entry
      counts.invalidated++
      return undefined
    })
  }

  const acceptMany: Kernel<A>["acceptMany"] = (keys, found) =>
    Effect.gen(function* () {
      const parsed = found.map((one) => (one === undefined ? undefined : parse(one)))
      const corrupt = keys.filter((_, index) => parsed[index] === "corrupt")
      if (corrupt.length > 0) yield* discard([...new Set(corrupt)])
      const names = new Set<string>()
      for (const one of parsed) {
        if (typeof one === "object") for (const [name] of one.stamps ?? []) names.add(name)
      }
      const current = new Map<string, string | undefined>()
      if (names.size > 0) {
        const stamps = yield* currentStamps([...names])
        for (const [index, name] of [...names].entries()) current.set(name, stamps[index])
      }
      const entries: Array<Entry<A> | undefined> = []
      for (const [index, one] of parsed.entries()) {
        if (one === undefined || one === "corrupt") entries.push(undefined)
        else if (one === "untimed") entries.push(yield* timedAgain(keys[index] ?? ""))
        else if (one.stamps?.some(([name, stamp]) => stamp === undefined || stamp !== current.get(name)) === true) {
          counts.invalidated++
          entries.push(undefined)
        } else entries.push(one.entry)
      }
      return entries
    })

  const stamp: Kernel<A>["stamp"] = (write, method) => {
    const tags = write?.tags
    if ((tags === undefined || tags.length === 0) && !settings.generations) return Effect.succeed(unstamped)
    if (backend.stamps === undefined) return failure("InvalidOptions", method, "tags need a backend with stamps")
    const ttl = write?.ttl === undefined ? Either.right(settings.ttl) : Ttl.millis(write.ttl)
    if (Either.isLeft(ttl)) return failure("InvalidTtl", method, ttl.left)
    const names = [...new Set(tags ?? [])]
    const keys = names.map((tag) => Settings.tagKey(namespace, tag))
    if (settings.generations) keys.push(Settings.generationKey(namespace))
    return Effect.map(
      backend.stamps.ensure(keys, Math.max(ttl.right + settings.keep, settings.negativeTtl) + stampMargin),
      (stamps) => ({
        tags:
          names.length === 0 ? undefined : Object.fromEntries(names.map((tag, index) => [tag, stamps[index] ?? ""])),
        generation: settings.generations ? stamps[names.length] : undefined
      })
    )
  }

  const ttlOf = (ttl: WriteOptions["ttl"], otherwise: number, method: string): Effect.Effect<number, CacheError> => {
    const millis = ttl === undefined ? Either.right(otherwise) : Ttl.millis(ttl)
    if (Either.isLeft(millis)) return failure("InvalidTtl", method, millis.left)
    if (settings.jitter === 0) return Effect.succeed(millis.right)
    return Effect.map(Random.next, (part) => Math.max(1, Math.ceil(millis.right * (1 - settings.jitter * part))))
  }

  const prepare: Kernel<A>["prepare"] = (key, value, write, stamped, took, method) => {
    const there = Option.isSome(value)
    let text: string | undefined
    if (there) {
      const encoded = encodeValue(value.value)
      const sound =
        Either.isRight(encoded) &&
        typeof encoded.right === "string" &&
        (version === undefined || Either.isRight(decodeValue(JSON.parse(encoded.right))))
      if (!sound) return failure("InvalidValue", method, "the value does not encode by the cache's schema")
      text = encoded.right
    }
    const keep = there ? settings.keep : 0
    const ttl = there
      ? ttlOf(write?.ttl, settings.ttl, method)
      : ttlOf(write?.negativeTtl, settings.negativeTtl, method)
    return Effect.map(ttl, (fresh) => ({
      fresh,
      entry: {
        key: prefix + key,
        text: Envelope.encode(
          {
            keep,
            took: settings.earlyRefresh > 0 && there ? took : 0,
            schema: there ? version : undefined,
            ...stamped
          },
          text
        ),
        ttl: fresh + keep,
        compressAbove: settings.compressAbove
      }
    }))
  }

  return {
    backend,
    settings,
    counts,
    tier,
    by: () => by,
    doubt: () => {
      epoch++
      by = { namespace, prefix, from: `${id}.${epoch}` }
    },
    newToken: () => `${id}.${tokens++}`,
    count,
    guard,
    parse,
    settle,
    accept,
    acceptMany,
    stamp,
    prepare
  }
}

const randomId = (): string =>
  Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("")
