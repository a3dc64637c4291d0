/**
 * What stores that are reached by HTTP share: requests in JSON, what is known of collections, the errors of the port.
 */
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as VectorStore from "@underlay/core/storage/VectorStore"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { HttpConnection, RequestOptions, ServiceError } from "../http/httpConnection.ts"
import * as Recent from "./recent.ts"

export type Fail = VectorStore.VectorStoreError | ConnectionError

/** Codes of our own, for what a store's answer means for the port. */
export const collectionNotFound = "CollectionNotFound"
export const dimensionMismatch = "DimensionMismatch"

/** Sends JSON that is written already, and gives the answer as it is: what is in it is looked at where it is used. */
export const sender =
  (http: HttpConnection) =>
  (
    operation: string,
    method: "GET" | "POST" | "PUT" | "DELETE",
    path: string,
    body?: string,
    options?: RequestOptions
  ): Effect.Effect<unknown, ConnectionError> => {
    const request = HttpClientRequest.make(method)(path)
    return http.request(
      operation,
      body === undefined ? request : HttpClientRequest.bodyText(request, body, "application/json"),
      { ...options, schema: Schema.Unknown }
    )
  }

/** For requests whose 404 is an answer, and no failure to be logged. */
export const orMissing: RequestOptions = { accept: (status) => status === 404 || (status >= 200 && status < 300) }

/** An answer that may be a 404: nothing, where it says that there is no such collection. */
export const present = (
  method: string,
  collection: string | undefined,
  answer: unknown,
  isThere: boolean,
  errorOf: (status: number, body: unknown) => ServiceError
): Effect.Effect<unknown, VectorStore.VectorStoreError> => {
  if (isThere) return Effect.succeed(answer)
  const said = errorOf(404, answer)
  return said.code === collectionNotFound
    ? Effect.succeed(undefined)
    : Effect.fail(unexpected(method, collection, said.description ?? "is this the service that was meant?"))
}

/** An error of the connection as one of the port. */
const storeError = (method: string, collection: string | undefined, error: Fail): VectorStore.VectorStoreError => {
  if (error._tag === "VectorStoreError") return error
  if (collection !== undefined && error.code === collectionNotFound) return VectorStore.notFound(method, collection)
  const own = VectorStore.fromConnectionError(method, error, collection)
  return error.code === dimensionMismatch
    ? new VectorStore.VectorStoreError({ ...fields(own), reason: "DimensionMismatch" })
    : own
}

/** The errors of the connection as those of the port. */
export const typed =
  (method: string, collection?: string) =>
  <A>(effect: Effect.Effect<A, Fail>): Effect.Effect<A, VectorStore.VectorStoreError> =>
    Effect.mapError(effect, (error) => storeError(method, collection, error))

export const unexpected = (
  method: string,
  collection: string | undefined,
  what: string
): VectorStore.VectorStoreError =>
  new VectorStore.VectorStoreError({
    reason: "Unknown",
    method,
    ...(collection === undefined ? {} : { collection }),
    description: `the answer is not what was expected: ${what}`
  })

/**
 * What is known of collections, so that not every operation has to ask. It is asked for again when it is older than half a
 * minute, and when the server, or a vector, says that it is not so any more.
 */
export const knowledge = <C extends VectorStore.CollectionInfo>(
  lookUp: (method: string, name: string) => Effect.Effect<C | undefined, Fail>
) => {
  const known = Recent.make<{ readonly collection: C; readonly at: number }>(Recent.mostCollections)
  const fresh = (method: string, name: string): Effect.Effect<C | undefined, Fail> =>
    Effect.flatMap(Clock.currentTimeMillis, (at) =>
      Effect.map(lookUp(method, name), (collection) => {
        if (collection === undefined) {
          known.delete(name)
          return undefined
        }
        known.set(name, { collection, at })
        return collection
      })
    )
  const isOutdated = (error: Fail): boolean =>
    error._tag === "VectorStoreError"
      ? error.reason === "CollectionNotFound" || error.reason === "DimensionMismatch"
      : error.code === collectionNotFound || error.code === dimensionMismatch
  return {
    forget: known.delete,
    /** Runs `f` with the collection: once more, where what was known of it was out of date. */
    withCollection: <A>(
      method: string,
      name: string,
      f: (collection: C) => Effect.Effect<A, Fail>
    ): Effect.Effect<A, VectorStore.VectorStoreError> =>
      Effect.flatMap(VectorStore.checkKnownName(method, name), () =>
        Effect.flatMap(Clock.currentTimeMillis, (now): Effect.Effect<A, Fail> => {
          const anew = Effect.flatMap(fresh(method, name), (collection) =>
            collection === undefined ? VectorStore.notFound(method, name) : f(collection)
          )
          const remembered = known.get(name)
          return remembered === undefined || now - remembered.at > maxAge || now < remembered.at
            ? anew
            : Effect.catchAll(
                f(remembered.collection),
                (error): Effect.Effect<A, Fail> => (isOutdated(error) ? anew : Effect.fail(error))
              )
        })
      ).pipe(typed(method, name))
  }
}

const maxAge = 30_000

/** The order of matches: by nearness, and by id where they are as near. */
export const nearestFirst = (a: VectorStore.Match, b: VectorStore.Match): number =>
  a.distance - b.distance || VectorStore.compareIds(a.id, b.id)

/**
 * The nearest, cut where the port wants it: of those that are as near as the last one, the first by id. A server cuts
 * among them as it likes, so it is asked for one more than needed, and for more again while the cut is among equals. An
 * answer of fewer than were asked for says that there are no more: `short` sees it and can know better.
 */
export const nearest = <E, R>(
  limit: number,
  ask: (limit: number) => Effect.Effect<ReadonlyArray<VectorStore.Match>, E, R>,
  short?: (matches: ReadonlyArray<VectorStore.Match>) => Effect.Effect<ReadonlyArray<VectorStore.Match>, E, R>
): Effect.Effect<ReadonlyArray<VectorStore.Match>, E, R> => {
  const cut = (matches: ReadonlyArray<VectorStore.Match>): ReadonlyArray<VectorStore.Match> =>
    [...matches].sort(nearestFirst).slice(0, limit)
  const attempt = (asked: number): Effect.Effect<ReadonlyArray<VectorStore.Match>, E, R> =>
    Effect.flatMap(ask(asked), (matches) => {
      if (matches.length < asked)
        return short === undefined ? Effect.succeed(cut(matches)) : Effect.map(short(matches), cut)
      const sorted = [...matches].sort(nearestFirst)
      const last = sorted[limit - 1]
      const end = sorted[sorted.length - 1]
      return last === undefined || end === undefined || end.distance !== last.distance || asked >= mostEquals
        ? Effect.succeed(sorted.slice(0, limit))
        : attempt(Math.min(mostEquals, asked * 4))
    })
  return attempt(limit + 1)
}

const mostEquals = 40_000

/** What a text takes in JSON: its bytes, and as much again as it has characters for what has to be escaped. */
export const sizeOfText = (text: string): number => Buffer.byteLength(text) + text.length

/** 32-bit floats in base64, little-endian: exactly what they are, in few characters. */
export const encodeFloats = (vector: ReadonlyArray<number>): string => {
  const bytes = Buffer.from(new Float32Array(vector).buffer)
  return (isLittleEndian ? bytes : bytes.swap32()).toString("base64")
}

export const decodeFloats = (text: string): ReadonlyArray<number> => {
  const bytes = Buffer.from(text, "base64")
  const vector: Array<number> = new Array(Math.trunc(bytes.length / 4))
  for (let i = 0; i < vector.length; i++) vector[i] = bytes.readFloatLE(i * 4)
  return vector
}

const isLittleEndian = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1

/** A vector as one with the length one and what of that gives it back. */
export interface Scaled {
  readonly unit: ReadonlyArray<number>
  /** In base64: the length, a 32-bit float, and two bits a component. */
  readonly scale: string
}

/**
 * A vector apart from its length, in a sixteenth of what it takes beside itself. A component times the length is what it
 * was or the 32-bit float next to it; two bits say which: the same, one away from zero, one towards zero, or zero with a
 * minus. Nothing where that does not give back the same 32-bit floats, which can be where components are tiny.
 */
export const scaled = (vector: ReadonlyArray<number>): Scaled | undefined => {
  let squares = 0
  for (const value of vector) squares += value * value
  const length = Math.fround(Math.sqrt(squares))
  if (!(length > 0) || !Number.isFinite(length)) return undefined
  const size = vector.length
  const bytes = Buffer.alloc(4 + Math.ceil(size / 4))
  bytes.writeFloatLE(length)
  const unit: Array<number> = new Array(size)
  for (let i = 0; i < size; i++) {
    wanted[0] = vector[i] ?? 0
    const part = Math.fround((wanted[0] ?? 0) / length)
    // JSON has no minus before a zero
    unit[i] = part === 0 ? 0 : part
    given[0] = part === 0 ? 0 : part * length
    const off = (wantedBits[0] ?? 0) - (givenBits[0] ?? 0)
    const code = off === 0 ? 0 : off === 1 ? 1 : off === -1 ? 2 : wantedBits[0] === minusZero && part === 0 ? 3 : -1
    if (code < 0) return undefined
    const at = 4 + (i >> 2)
    bytes[at] = (bytes[at] ?? 0) | (code << ((i & 3) * 2))
  }
  return { unit, scale: bytes.toString("base64") }
}

/** The vector that was taken apart; nothing where the two do not belong together. */
export const unscaled = (unit: ReadonlyArray<number>, scale: string): ReadonlyArray<number> | undefined => {
  const bytes = Buffer.from(scale, "base64")
  const size = unit.length
  if (bytes.length !== 4 + Math.ceil(size / 4)) return undefined
  const length = bytes.readFloatLE(0)
  const vector: Array<number> = new Array(size)
  for (let i = 0; i < size; i++) {
    const code = ((bytes[4 + (i >> 2)] ?? 0) >> ((i & 3) * 2)) & 3
    given[0] = (unit[i] ?? 0) * length
    if (code === 3) givenBits[0] = minusZero
    else if (code !== 0) givenBits[0] = (givenBits[0] ?? 0) + (code === 1 ? 1 : -1)
    vector[i] = given[0] ?? 0
  }
  return vector
}

// 32-bit floats and their bits, of which the next float has one more.
const wanted = new Float32Array(1)
const wantedBits = new Int32Array(wanted.buffer)
const given = new Float32Array(1)
const givenBits = new Int32Array(given.buffer)
const minusZero = -(2 ** 31)

/** The vector with the length one; itself, where it has that as nearly as 32 bits can tell. */
export const unit = (vector: ReadonlyArray<number>): ReadonlyArray<number> => {
  let squares = 0
  for (const value of vector) squares += value * value
  if (Math.abs(squares - 1) <= 1e-6) return vector
  const length = Math.sqrt(squares)
  return vector.map((value) => value / length)
}

export const isObject = (value: unknown): value is { readonly [key: string]: unknown } =>
  typeof value === "object" && value !== null && !Array.isArray(value)

export const isArray = (value: unknown): value is ReadonlyArray<unknown> => Array.isArray(value)

/** A property of what is not known, its own only. */
export const at = (value: unknown, key: string): unknown =>
  isObject(value) && Object.hasOwn(value, key) ? value[key] : undefined

/** Numbers as 32-bit floats: a server prints the fewest digits that tell one from its neighbours. */
export const floatsOf = (value: unknown): ReadonlyArray<number> | undefined => {
  if (!isArray(value)) return undefined
  const floats: Array<number> = new Array(value.length)
  for (let i = 0; i < value.length; i++) {
    const each = value[i]
    if (typeof each !== "number") return undefined
    floats[i] = Math.fround(each)
  }
  return floats
}

/** What can be metadata of what a server has: another program may have written something else beside it. */
export const isValue = (value: unknown): value is VectorStore.Filter.Value =>
  typeof value === "string" || typeof value === "number" || typeof value === "boolean"

/** A score is a bound, too, for what the server sends: a little lower, for it reckons in 32 bits. */
export const loosened = (bound: number): number => bound - 1e-5 * Math.max(1, Math.abs(bound))

/** Pages of so many; none of none. */
export const pagesOf = <A>(items: ReadonlyArray<A>, size: number): ReadonlyArray<ReadonlyArray<A>> =>
  VectorStore.batches(items, { maxCount: size, maxBytes: Infinity, sizeOf: () => 0 })

/** By pages: one that is empty where there is nothing, for that the collection is there has to be seen then, too. */
export const inPages = <A, B, E>(
  items: ReadonlyArray<A>,
  size: number,
  f: (page: ReadonlyArray<A>) => Effect.Effect<B, E>
): Effect.Effect<ReadonlyArray<B>, E> => Effect.forEach(items.length === 0 ? [[]] : pagesOf(items, size), f)

/** The records of these ids, by pages of ids of which each is asked for once, in the order that was asked for. */
export const getInPages = <E>(
  ids: ReadonlyArray<string>,
  size: number,
  read: (page: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<VectorStore.StoredRecord>, E>
): Effect.Effect<ReadonlyArray<VectorStore.StoredRecord>, E> =>
  Effect.map(inPages([...new Set(ids)], size, read), (found) => {
    const byId = new Map(found.flat().map((record) => [record.id, record]))
    return ids.flatMap((id) => byId.get(id) ?? [])
  })

/** Writes batch by batch. An error of a later one tells how much is written. */
export const writeInBatches = <A>(
  collection: string,
  batches: ReadonlyArray<ReadonlyArray<A>>,
  write: (batch: ReadonlyArray<A>) => Effect.Effect<unknown, Fail>
): Effect.Effect<void, Fail> =>
  Effect.suspend(() => {
    let written = 0
    const each = (batch: ReadonlyArray<A>) =>
      Effect.map(write(batch), () => {
        written += batch.length
      })
    return Effect.mapError(Effect.forEach(batches, each, { discard: true }), (error) => {
      if (written === 0) return error
      const own = storeError("upsert", collection, error)
      const all = batches.reduce((sum, batch) => sum + batch.length, 0)
      return new VectorStore.VectorStoreError({
        ...fields(own),
        description: `${own.description}; the first ${written} of ${all} records are written`
      })
    })
  })

const fields = (error: VectorStore.VectorStoreError) => ({
  reason: error.reason,
  method: error.method,
  description: error.description,
  ...(error.collection === undefined ? {} : { collection: error.collection }),
  ...(error.retryAfter === undefined ? {} : { retryAfter: error.retryAfter }),
  ...(error.cause === undefined ? {} : { cause: error.cause })
})
