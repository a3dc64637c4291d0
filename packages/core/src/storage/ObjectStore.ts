/**
 * The port of object stores: whole objects of bytes under keys, with metadata, read whole or in part, listed in order,
 * and written under a condition where that is asked for.
 *
 * @since 0.1.0
 */
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Checksums from "../internal/objects/checksums.ts"

/**
 * What an object is made of: bytes, a text (kept as UTF-8), or a stream of bytes, whose failure fails the `put` and leaves
 * what was there before.
 *
 * @since 0.1.0
 * @category models
 */
export type Body<E = never> = string | Uint8Array | Stream.Stream<Uint8Array, E>

/**
 * A checksum of all bytes of an object, in base64.
 *
 * @since 0.1.0
 * @category models
 */
export interface Checksum {
  readonly algorithm: "sha256" | "crc32c"
  readonly value: string
}

/**
 * What is kept with an object. `contentType` is `application/octet-stream` unless it is given. Names of `metadata` are
 * `a-z 0-9 -` and begin with a letter or digit; its values, and the other fields, are printable ASCII without spaces
 * at their ends; all metadata together has at most 2,048 bytes.
 *
 * @since 0.1.0
 * @category models
 */
export interface Attributes {
  readonly contentType?: string | undefined
  readonly cacheControl?: string | undefined
  readonly contentDisposition?: string | undefined
  readonly contentEncoding?: string | undefined
  readonly contentLanguage?: string | undefined
  readonly metadata?: Readonly<Record<string, string>> | undefined
}

/**
 * How an object is written. `ifNoneMatch: "*"` writes only where there is none, `ifMatch` only over the object with that
 * etag; else it fails with `Conflict`. `size` is the length of a stream where it is known: a stream of another length
 * fails. `checksum` is what the bytes must have: else it fails with `ChecksumMismatch`. Whatever fails, what was there
 * before stays.
 *
 * @since 0.1.0
 * @category models
 */
export interface PutOptions extends Attributes {
  readonly ifNoneMatch?: "*" | undefined
  readonly ifMatch?: string | undefined
  readonly size?: number | undefined
  readonly checksum?: Checksum | undefined
}

/**
 * Conditions of a read. `ifMatch` and `ifUnmodifiedSince` fail with `Conflict` where they do not hold, `ifNoneMatch` and
 * `ifModifiedSince` with `NotModified`. Times are compared in whole seconds; of a pair the etag alone decides.
 *
 * @since 0.1.0
 * @category models
 */
export interface Conditions {
  readonly ifMatch?: string | undefined
  readonly ifNoneMatch?: string | undefined
  readonly ifModifiedSince?: Date | undefined
  readonly ifUnmodifiedSince?: Date | undefined
}

/**
 * A part of an object: `length` bytes from `offset` (to the end without a length), or the `last` bytes. What goes beyond
 * the end is left out; what begins at the end or beyond it fails with `InvalidRange`.
 *
 * @since 0.1.0
 * @category models
 */
export type Range = { readonly offset: number; readonly length?: number | undefined } | { readonly last: number }

/**
 * @since 0.1.0
 * @category models
 */
export interface GetOptions extends Conditions {
  readonly range?: Range | undefined
}

/**
 * What was written. The etag changes whenever the bytes do; it has no quotes and no meaning of its own.
 *
 * @since 0.1.0
 * @category models
 */
export interface StoredObject {
  readonly key: string
  readonly etag: string
  readonly size: number
}

/**
 * An object without its bytes. `size` is that of the whole object.
 *
 * @since 0.1.0
 * @category models
 */
export interface ObjectInfo extends StoredObject {
  readonly lastModified: Date
  readonly contentType: string
  readonly cacheControl?: string
  readonly contentDisposition?: string
  readonly contentEncoding?: string
  readonly contentLanguage?: string
  readonly metadata: Readonly<Record<string, string>>
  readonly checksum?: Checksum
}

/**
 * Where a part that was read lies: its first byte, and how many.
 *
 * @since 0.1.0
 * @category models
 */
export interface Part {
  readonly offset: number
  readonly length: number
}

/**
 * An object, or the `part` of it that was asked for, in memory.
 *
 * @since 0.1.0
 * @category models
 */
export interface ObjectData {
  readonly info: ObjectInfo
  readonly bytes: Uint8Array
  readonly part: Part
}

/**
 * An object that is open: its bytes are to be read once, within the scope in which it was opened.
 *
 * @since 0.1.0
 * @category models
 */
export interface OpenObject {
  readonly info: ObjectInfo
  readonly body: Stream.Stream<Uint8Array, ObjectStoreError>
  readonly part: Part
}

/**
 * What to list: the keys that begin with `prefix` and come after `startAfter`. With a `delimiter`, keys that have it after
 * the prefix are put together under what comes before it.
 *
 * @since 0.1.0
 * @category models
 */
export interface ListOptions {
  readonly prefix?: string | undefined
  readonly delimiter?: string | undefined
  readonly startAfter?: string | undefined
  /** How many are asked for at once, 1 to 1,000: 1,000 by default. */
  readonly pageSize?: number | undefined
}

/**
 * What a list gives: an object, or the common prefix, delimiter included, of keys that are put together.
 *
 * @since 0.1.0
 * @category models
 */
export type ListEntry =
  | (StoredObject & { readonly _tag: "Object"; readonly lastModified: Date })
  | { readonly _tag: "Prefix"; readonly prefix: string }

/**
 * What became of the keys that were to be deleted. A key that was not there counts as deleted.
 *
 * @since 0.1.0
 * @category models
 */
export interface Deleted {
  readonly deleted: ReadonlyArray<string>
  readonly failed: ReadonlyArray<{ readonly key: string; readonly error: ObjectStoreError }>
}

/**
 * How an object is copied: with the attributes of `replace` in place of its own, and only if the source has the etag
 * `ifSourceMatch`.
 *
 * @since 0.1.0
 * @category models
 */
export interface CopyOptions {
  readonly ifSourceMatch?: string | undefined
  readonly replace?: Attributes | undefined
}

/**
 * How long a URL is good for: from a second to seven days, an hour by default. Who has it needs no other permission.
 *
 * @since 0.1.0
 * @category models
 */
export interface PresignOptions {
  readonly expiresIn?: Duration.DurationInput | undefined
}

/**
 * What is answered to who reads by the URL, in place of what is kept.
 *
 * @since 0.1.0
 * @category models
 */
export interface PresignGetOptions extends PresignOptions {
  readonly contentType?: string | undefined
  readonly contentDisposition?: string | undefined
}

/**
 * What who writes by the URL must send as `content-type`.
 *
 * @since 0.1.0
 * @category models
 */
export interface PresignPutOptions extends PresignOptions {
  readonly contentType?: string | undefined
}

/**
 * What a store can promise.
 *
 * @since 0.1.0
 * @category models
 */
export interface Capabilities {
  /** Objects outlive the process. */
  readonly persistent: boolean
  /** `ifNoneMatch` and `ifMatch` of a `put` are kept: of any number of writers at once one wins. */
  readonly conditionalPut: boolean
  /** `presignGet` and `presignPut` give URLs. */
  readonly presign: boolean
  /** The checksums that are kept with an object and checked when it is read whole. */
  readonly checksums: ReadonlyArray<Checksum["algorithm"]>
}

/**
 * Why an object store failed. `NotFound`: there is no such object. `Conflict`: a condition did not hold, and does not by
 * asking again. `ChecksumMismatch`: bytes are not those that were meant.
 *
 * @since 0.1.0
 * @category errors
 */
export const ObjectStoreErrorReason = Schema.Literal(
  "NotFound",
  "NotModified",
  "Conflict",
  "InvalidKey",
  "InvalidRange",
  "InvalidRequest",
  "ChecksumMismatch",
  "TooLarge",
  "Unsupported",
  "Authentication",
  "PermissionDenied",
  "Throttled",
  "Unavailable",
  "Timeout",
  "Cancelled",
  "Closed",
  "Unknown"
)
/**
 * @since 0.1.0
 * @category errors
 */
export type ObjectStoreErrorReason = typeof ObjectStoreErrorReason.Type

/**
 * The one error of object stores. `description` says what to do; neither it nor `message` holds a key, which may be
 * private: that is in `key`. `code` is the store's own.
 *
 * @since 0.1.0
 * @category errors
 */
export class ObjectStoreError extends Schema.TaggedError<ObjectStoreError>()("ObjectStoreError", {
  reason: ObjectStoreErrorReason,
  method: Schema.String,
  key: Schema.optionalWith(Schema.String, { exact: true }),
  description: Schema.String,
  code: Schema.optionalWith(Schema.String, { exact: true }),
  retryAfter: Schema.optionalWith(Schema.DurationFromSelf, { exact: true }),
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  /** Whether the same request may succeed later. */
  get isRetryable(): boolean {
    switch (this.reason) {
      case "ChecksumMismatch":
      case "Throttled":
      case "Unavailable":
      case "Timeout":
        return true
      default:
        return false
    }
  }

  /** What it means for policies and retries. */
  get errorClass(): "rate-limited" | "transient" | "permanent" {
    return this.reason === "Throttled" ? "rate-limited" : this.isRetryable ? "transient" : "permanent"
  }

  override get message(): string {
    const code = this.code === undefined ? "" : ` [${this.code}]`
    return `ObjectStore.${this.method}: ${this.reason}${code}: ${this.description}`
  }
}

/**
 * An object store. Keys are 1 to 1,024 bytes of UTF-8 without NUL, and nothing more is made of them: `a`, `a/b`, `/a`,
 * `a//b` and `../a` are five objects.
 *
 * - `put` writes an object whole or not at all; whoever reads meanwhile reads the old one or the new one, whole.
 * - `get`, `open`, `stream` read it, `head` reads what is kept with it. `get` is for what fits in memory; the bytes of
 *   `open` are read within a scope; `stream` opens and closes by itself. They fail with `NotFound`.
 * - `list` gives objects and common prefixes by the order of their UTF-8 bytes. What is there throughout comes exactly
 *   once, whatever is written meanwhile.
 * - `delete` succeeds whether or not there was something; `deleteMany` tells for each key.
 * - `copy` copies inside the store, attributes included.
 * - `presignGet`, `presignPut` give URLs by which others read and write one object for a time; `Unsupported` where the
 *   store has none.
 *
 * @since 0.1.0
 * @category tags
 */
export class ObjectStore extends Context.Tag("@underlay/core/ObjectStore")<
  ObjectStore,
  {
    readonly capabilities: Capabilities
    readonly put: <E = never>(
      key: string,
      body: Body<E>,
      options?: PutOptions
    ) => Effect.Effect<StoredObject, ObjectStoreError | E>
    readonly get: (key: string, options?: GetOptions) => Effect.Effect<ObjectData, ObjectStoreError>
    readonly open: (key: string, options?: GetOptions) => Effect.Effect<OpenObject, ObjectStoreError, Scope.Scope>
    readonly stream: (key: string, options?: GetOptions) => Stream.Stream<Uint8Array, ObjectStoreError>
    readonly head: (key: string, conditions?: Conditions) => Effect.Effect<ObjectInfo, ObjectStoreError>
    readonly exists: (key: string) => Effect.Effect<boolean, ObjectStoreError>
    readonly list: (options?: ListOptions) => Stream.Stream<ListEntry, ObjectStoreError>
    readonly delete: (key: string) => Effect.Effect<void, ObjectStoreError>
    readonly deleteMany: (keys: Iterable<string>) => Effect.Effect<Deleted, ObjectStoreError>
    readonly copy: (from: string, to: string, options?: CopyOptions) => Effect.Effect<StoredObject, ObjectStoreError>
    readonly presignGet: (key: string, options?: PresignGetOptions) => Effect.Effect<URL, ObjectStoreError>
    readonly presignPut: (key: string, options?: PresignPutOptions) => Effect.Effect<URL, ObjectStoreError>
  }
>() {}

// ---------------------------------------------------------------------------------------------------------------------
// What adapters share
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The most bytes of a key in UTF-8.
 *
 * @since 0.1.0
 * @category constructors
 */
export const maxKeyBytes = 1_024

const fail = (
  reason: ObjectStoreErrorReason,
  method: string,
  key: string | undefined,
  description: string
): Effect.Effect<never, ObjectStoreError> =>
  Effect.fail(new ObjectStoreError({ reason, method, description, ...(key === undefined ? {} : { key }) }))

const encoder = new TextEncoder()

// With the flag `u` a whole pair is one character, and no surrogate.
const isText = (text: string): boolean => !text.includes("\u0000") && !/[\ud800-\udfff]/u.test(text)

const utf8Length = (text: string): number => {
  // Three bytes at most for each unit of UTF-16.
  if (text.length * 3 <= maxKeyBytes) return text.length
  return encoder.encode(text).length
}

/**
 * Fails with `InvalidKey` unless it is one.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkKey = (method: string, key: string): Effect.Effect<void, ObjectStoreError> => {
  if (typeof key === "string" && key !== "" && isText(key) && utf8Length(key) <= maxKeyBytes) return Effect.void
  return fail("InvalidKey", method, undefined, "a key is 1 to 1,024 bytes of UTF-8 without the character NUL")
}

const printable = /^[!-~](?:[ -~]*[!-~])?$/

/**
 * Fails with `InvalidRequest` for attributes that cannot be kept everywhere.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkAttributes = (
  method: string,
  key: string,
  attributes: Attributes
): Effect.Effect<void, ObjectStoreError> => {
  const { cacheControl, contentDisposition, contentEncoding, contentLanguage, contentType, metadata } = attributes
  for (const value of [contentType, cacheControl, contentDisposition, contentEncoding, contentLanguage]) {
    if (value !== undefined && !printable.test(value)) {
      return fail("InvalidRequest", method, key, "contentType and the like are printable ASCII, and not empty")
    }
  }
  let size = 0
  for (const [name, value] of Object.entries(metadata ?? {})) {
    if (!/^[a-z0-9][a-z0-9-]*$/.test(name)) {
      return fail("InvalidRequest", method, key, "a name of metadata is a-z 0-9 - and begins with a letter or digit")
    }
    if (typeof value !== "string" || (value !== "" && !printable.test(value))) {
      return fail("InvalidRequest", method, key, `the metadata "${name}" is not printable ASCII: encode it`)
    }
    size += name.length + value.length
  }
  return size <= 2_048 ? Effect.void : fail("InvalidRequest", method, key, "metadata is larger than 2,048 bytes")
}

const isDigest = (checksum: Checksum): boolean =>
  checksum.algorithm === "sha256"
    ? /^[A-Za-z0-9+/]{43}=$/.test(checksum.value)
    : checksum.algorithm === "crc32c" && /^[A-Za-z0-9+/]{6}==$/.test(checksum.value)

/**
 * Checks what is asked of a `put`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkPut = (
  key: string,
  options: PutOptions | undefined,
  capabilities: Capabilities
): Effect.Effect<void, ObjectStoreError> => {
  if (options === undefined) return checkKey("put", key)
  const { checksum, ifMatch, ifNoneMatch, size } = options
  if (ifMatch !== undefined && ifNoneMatch !== undefined) {
    return fail("InvalidRequest", "put", key, "ifMatch and ifNoneMatch cannot both hold: give one")
  }
  if (ifNoneMatch !== undefined && ifNoneMatch !== "*") {
    return fail("InvalidRequest", "put", key, 'ifNoneMatch of a put is "*"')
  }
  if ((ifMatch !== undefined || ifNoneMatch !== undefined) && !capabilities.conditionalPut) {
    return fail("Unsupported", "put", key, "this store does not keep the conditions of a put")
  }
  if (ifMatch !== undefined && !isEtag(ifMatch)) return fail("InvalidRequest", "put", key, notAnEtag)
  if (size !== undefined && !(Number.isSafeInteger(size) && size >= 0)) {
    return fail("InvalidRequest", "put", key, "size is a whole number of bytes")
  }
  if (checksum !== undefined && !isDigest(checksum)) {
    return fail("InvalidRequest", "put", key, "a checksum is sha256 or crc32c, in base64")
  }
  return Effect.zipRight(checkKey("put", key), checkAttributes("put", key, options))
}

const isEtag = (text: string): boolean => /^[!#-~]+$/.test(text)
const notAnEtag = "an etag is what a put, head or list gave, without quotes"

/**
 * Checks what is asked of a read.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkGet = (
  method: string,
  key: string,
  options: GetOptions | undefined
): Effect.Effect<void, ObjectStoreError> => {
  if (options === undefined) return checkKey(method, key)
  const { ifMatch, ifModifiedSince, ifNoneMatch, ifUnmodifiedSince, range } = options
  for (const etag of [ifMatch, ifNoneMatch]) {
    if (etag !== undefined && !isEtag(etag)) return fail("InvalidRequest", method, key, notAnEtag)
  }
  for (const date of [ifModifiedSince, ifUnmodifiedSince]) {
    if (date !== undefined && Number.isNaN(date.getTime())) {
      return fail("InvalidRequest", method, key, "a condition is no date")
    }
  }
  if (range !== undefined) {
    const whole = (value: number, least: number) => Number.isSafeInteger(value) && value >= least
    const good = "last" in range ? whole(range.last, 1) : whole(range.offset, 0) && whole(range.length ?? 1, 1)
    if (!good) return fail("InvalidRange", method, key, "offset is 0 or more, length and last are 1 or more, all whole")
  }
  return checkKey(method, key)
}

/**
 * Checks what is asked of a list and gives the size of its pages.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkList = (options: ListOptions | undefined): Effect.Effect<number, ObjectStoreError> => {
  const pageSize = options?.pageSize ?? 1_000
  if (!(Number.isInteger(pageSize) && pageSize >= 1 && pageSize <= 1_000)) {
    return fail("InvalidRequest", "list", undefined, "pageSize is a whole number, 1 to 1,000")
  }
  if (options?.delimiter === "") return fail("InvalidRequest", "list", undefined, "a delimiter is not empty")
  for (const text of [options?.prefix, options?.delimiter, options?.startAfter]) {
    if (text !== undefined && (!isText(text) || utf8Length(text) > maxKeyBytes)) {
      return fail("InvalidKey", "list", undefined, "prefix, delimiter and startAfter are parts of keys")
    }
  }
  return Effect.succeed(pageSize)
}

/**
 * The order of keys: that of their bytes in UTF-8, which is that of Unicode code points.
 *
 * @since 0.1.0
 * @category combinators
 */
export const compareKeys = (a: string, b: string): number => {
  const length = Math.min(a.length, b.length)
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i)
    const y = b.charCodeAt(i)
    if (x === y) continue
    // A surrogate stands for a code point above all that one unit can hold.
    const high = x >= 0xd800 && x <= 0xdfff
    return high === (y >= 0xd800 && y <= 0xdfff) ? x - y : high ? 1 : -1
  }
  return a.length - b.length
}

/**
 * The common prefix that a key is listed under, if there is one.
 *
 * @since 0.1.0
 * @category combinators
 */
export const commonPrefix = (key: string, prefix: string, delimiter: string | undefined): string | undefined => {
  if (delimiter === undefined) return undefined
  const at = key.indexOf(delimiter, prefix.length)
  return at < 0 ? undefined : key.slice(0, at + delimiter.length)
}

/**
 * Fails with `Conflict` or `NotModified` where the conditions do not hold for an object.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkConditions = (
  method: string,
  object: { readonly key: string; readonly etag: string; readonly lastModified: Date },
  conditions: Conditions | undefined
): Effect.Effect<void, ObjectStoreError> => {
  if (conditions === undefined) return Effect.void
  const { ifMatch, ifModifiedSince, ifNoneMatch, ifUnmodifiedSince } = conditions
  const seconds = (date: Date) => Math.floor(date.getTime() / 1_000)
  const conflict =
    ifMatch !== undefined
      ? ifMatch !== "*" && ifMatch !== object.etag
      : ifUnmodifiedSince !== undefined && seconds(object.lastModified) > seconds(ifUnmodifiedSince)
  if (conflict) return fail("Conflict", method, object.key, "the object is not the one that was asked for")
  const same =
    ifNoneMatch !== undefined
      ? ifNoneMatch === "*" || ifNoneMatch === object.etag
      : ifModifiedSince !== undefined && seconds(object.lastModified) <= seconds(ifModifiedSince)
  return same ? fail("NotModified", method, object.key, "the object is the one that is known") : Effect.void
}

/**
 * The part of an object of `size` bytes that a range means. It fails with `InvalidRange` for one that lies beyond the end.
 *
 * @since 0.1.0
 * @category combinators
 */
export const partOf = (
  method: string,
  key: string,
  size: number,
  range: Range | undefined
): Effect.Effect<Part, ObjectStoreError> => {
  if (range === undefined) return Effect.succeed({ offset: 0, length: size })
  if ("last" in range) {
    return size === 0
      ? fail("InvalidRange", method, key, "the object is empty")
      : Effect.succeed({ offset: Math.max(0, size - range.last), length: Math.min(size, range.last) })
  }
  return range.offset >= size
    ? fail("InvalidRange", method, key, `the object has ${size} bytes, the range begins at ${range.offset}`)
    : Effect.succeed({ offset: range.offset, length: Math.min(size - range.offset, range.length ?? size) })
}

/**
 * The error of an object that is not there.
 *
 * @since 0.1.0
 * @category combinators
 */
export const notFound = (method: string, key: string): ObjectStoreError =>
  new ObjectStoreError({ reason: "NotFound", method, key, description: "there is no such object" })

/**
 * The error of a condition of a `put` that did not hold.
 *
 * @since 0.1.0
 * @category combinators
 */
export const conflict = (method: string, key: string, options: PutOptions): ObjectStoreError =>
  new ObjectStoreError({
    reason: "Conflict",
    method,
    key,
    description:
      options.ifNoneMatch === undefined
        ? "the object is not the one with this etag: read it again"
        : "there is an object already"
  })

/**
 * Follows a checksum over bytes as they come.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checksum: (algorithm: Checksum["algorithm"]) => {
  readonly update: (bytes: Uint8Array) => void
  readonly digest: () => string
} = Checksums.make

/**
 * The error of bytes whose checksum is another than it should be.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checksumMismatch = (method: string, key: string, algorithm: Checksum["algorithm"]): ObjectStoreError =>
  new ObjectStoreError({
    reason: "ChecksumMismatch",
    method,
    key,
    description: `the bytes do not have the ${algorithm} that they should have`
  })

/**
 * The error of a stream whose length is another than was said.
 *
 * @since 0.1.0
 * @category combinators
 */
export const sizeMismatch = (key: string, expected: number): ObjectStoreError =>
  new ObjectStoreError({
    reason: "InvalidRequest",
    method: "put",
    key,
    description: `size was said to be ${expected}, the stream has another length`
  })

/**
 * Follows the bytes of a stream against the `size` and the checksum that were said: the first byte too many fails it, and
 * so does its end where it comes early or with another checksum. The last piece is kept back until all that is known: who
 * sends the bytes as they come has not sent all of them when the stream fails.
 *
 * @since 0.1.0
 * @category combinators
 */
export const verified = <E>(
  key: string,
  stream: Stream.Stream<Uint8Array, E>,
  expected: { readonly size?: number | undefined; readonly checksum?: Checksum | undefined }
): Stream.Stream<Uint8Array, E | ObjectStoreError> => {
  const { checksum: wanted, size } = expected
  if (size === undefined && wanted === undefined) return stream
  return Stream.suspend(() => {
    const hash = wanted === undefined ? undefined : Checksums.make(wanted.algorithm)
    let seen = 0
    let last: Uint8Array | undefined
    return stream.pipe(
      Stream.mapChunksEffect((chunk): Effect.Effect<Chunk.Chunk<Uint8Array>, ObjectStoreError> => {
        const out: Array<Uint8Array> = []
        for (const bytes of chunk) {
          if (bytes.length === 0) continue
          seen += bytes.length
          hash?.update(bytes)
          if (last !== undefined) out.push(last)
          last = bytes
        }
        return size !== undefined && seen > size
          ? Effect.fail(sizeMismatch(key, size))
          : Effect.succeed(Chunk.unsafeFromArray(out))
      }),
      Stream.concat(
        Stream.suspend(() => {
          if (size !== undefined && seen !== size) return Stream.fail(sizeMismatch(key, size))
          if (wanted !== undefined && hash?.digest() !== wanted.value) {
            return Stream.fail(checksumMismatch("put", key, wanted.algorithm))
          }
          return last === undefined ? Stream.empty : Stream.make(last)
        })
      )
    )
  })
}

/**
 * The bytes of a body that is in memory.
 *
 * @since 0.1.0
 * @category combinators
 */
export const bytesOf = (body: string | Uint8Array): Uint8Array =>
  typeof body === "string" ? encoder.encode(body) : body

/**
 * Several pieces as one.
 *
 * @since 0.1.0
 * @category combinators
 */
export const concat = (pieces: ReadonlyArray<Uint8Array>): Uint8Array => {
  const [first] = pieces
  if (pieces.length === 1 && first !== undefined) return first
  let size = 0
  for (const piece of pieces) size += piece.length
  const all = new Uint8Array(size)
  let at = 0
  for (const piece of pieces) {
    all.set(piece, at)
    at += piece.length
  }
  return all
}

/**
 * All bytes of a stream in memory.
 *
 * @since 0.1.0
 * @category combinators
 */
export const collect = <E, R>(stream: Stream.Stream<Uint8Array, E, R>): Effect.Effect<Uint8Array, E, R> =>
  Effect.map(Stream.runCollect(stream), (pieces) => concat(Chunk.toReadonlyArray(pieces)))

// ---------------------------------------------------------------------------------------------------------------------
// In memory
// ---------------------------------------------------------------------------------------------------------------------

interface Kept {
  readonly info: ObjectInfo
  readonly bytes: Uint8Array
}

const piece = 64 * 1_024

const defined = (attributes: Attributes): Omit<ObjectInfo, "key" | "etag" | "size" | "lastModified"> => ({
  contentType: attributes.contentType ?? "application/octet-stream",
  ...(attributes.cacheControl === undefined ? {} : { cacheControl: attributes.cacheControl }),
  ...(attributes.contentDisposition === undefined ? {} : { contentDisposition: attributes.contentDisposition }),
  ...(attributes.contentEncoding === undefined ? {} : { contentEncoding: attributes.contentEncoding }),
  ...(attributes.contentLanguage === undefined ? {} : { contentLanguage: attributes.contentLanguage }),
  metadata: { ...attributes.metadata }
})

/**
 * A store in this process, gone with it.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeMemory: Effect.Effect<Context.Tag.Service<ObjectStore>> = Effect.sync(() => {
  const objects = new Map<string, Kept>()
  const capabilities: Capabilities = {
    persistent: false,
    conditionalPut: true,
    presign: false,
    checksums: ["sha256", "crc32c"]
  }

  const find = (method: string, key: string, options?: GetOptions): Effect.Effect<Kept, ObjectStoreError> =>
    Effect.flatMap(checkGet(method, key, options), () =>
      Effect.suspend(() => {
        const kept = objects.get(key)
        return kept === undefined
          ? Effect.fail(notFound(method, key))
          : Effect.as(checkConditions(method, kept.info, options), kept)
      })
    )

  const write = (key: string, bytes: Uint8Array, options: PutOptions): Effect.Effect<StoredObject, ObjectStoreError> =>
    Effect.flatMap(Clock.currentTimeMillis, (now) =>
      Effect.suspend(() => {
        const before = objects.get(key)
        if (options.ifNoneMatch !== undefined && before !== undefined) return Effect.fail(conflict("put", key, options))
        if (options.ifMatch !== undefined && before?.info.etag !== options.ifMatch) {
          return Effect.fail(conflict("put", key, options))
        }
        const etag = Checksums.hex(bytes)
        const info: ObjectInfo = {
          key,
          etag,
          size: bytes.length,
          lastModified: new Date(now),
          ...defined(options),
          ...(options.checksum === undefined ? {} : { checksum: options.checksum })
        }
        objects.set(key, { info, bytes })
        return Effect.succeed({ key, etag, size: bytes.length })
      })
    )

  const read = (method: string, key: string, options?: GetOptions) =>
    Effect.flatMap(find(method, key, options), ({ bytes, info }) =>
      Effect.map(partOf(method, key, info.size, options?.range), (part) => ({
        info: { ...info, metadata: { ...info.metadata } },
        part,
        bytes: bytes.subarray(part.offset, part.offset + part.length)
      }))
    )

  const open = (key: string, options?: GetOptions): Effect.Effect<OpenObject, ObjectStoreError> =>
    Effect.map(read("open", key, options), ({ bytes, info, part }) => ({
      info,
      part,
      body: Stream.unfold(0, (at) =>
        at >= bytes.length ? Option.none() : Option.some([bytes.slice(at, at + piece), at + piece] as const)
      )
    }))

  const remove = (method: string, key: string) => Effect.map(checkKey(method, key), () => void objects.delete(key))

  const unsupported = (method: string, key: string) =>
    fail("Unsupported", method, key, "there is no URL to a store in memory")

  return ObjectStore.of({
    capabilities,
    put: (key, body, options = {}) =>
      Effect.flatMap(checkPut(key, options, capabilities), () => {
        const stream = typeof body === "string" || body instanceof Uint8Array ? Stream.make(bytesOf(body)) : body
        // A copy, so that who gave the bytes may go on with them.
        return Effect.flatMap(collect(verified(key, stream, options)), (bytes) => write(key, bytes.slice(), options))
      }),
    get: (key, options) =>
      Effect.map(read("get", key, options), ({ bytes, info, part }) => ({ info, part, bytes: bytes.slice() })),
    open,
    stream: (key, options) => Stream.unwrap(Effect.map(open(key, options), ({ body }) => body)),
    head: (key, conditions) => Effect.map(read("head", key, conditions), ({ info }) => info),
    exists: (key) => Effect.map(checkKey("exists", key), () => objects.has(key)),
    list: (options) =>
      Stream.unwrap(
        Effect.map(checkList(options), (pageSize) => {
          const prefix = options?.prefix ?? ""
          const page = (after: string | undefined) =>
            Effect.sync(() => {
              const entries: Array<ListEntry> = []
              let last = after
              const keys = [...objects.keys()]
                .filter((key) => key.startsWith(prefix) && (after === undefined || compareKeys(key, after) > 0))
                .sort(compareKeys)
              let group: string | undefined
              for (const key of keys) {
                const under = commonPrefix(key, prefix, options?.delimiter)
                if (under !== undefined && under === group) {
                  last = key
                  continue
                }
                if (entries.length === pageSize) return [entries, last, true] as const
                group = under
                last = key
                const kept = objects.get(key)
                if (under !== undefined) entries.push({ _tag: "Prefix", prefix: under })
                else if (kept !== undefined) {
                  const { etag, lastModified, size } = kept.info
                  entries.push({ _tag: "Object", key, etag, size, lastModified })
                }
              }
              return [entries, last, false] as const
            })
          // Keys that come under a prefix that was given already do not bring it again.
          return Stream.paginateChunkEffect(
            { after: options?.startAfter, group: undefined as string | undefined },
            ({ after, group }) =>
              Effect.map(page(after), ([entries, last, more]) => {
                const fresh = entries.filter((entry) => !(entry._tag === "Prefix" && entry.prefix === group))
                const final = entries.at(-1)
                return [
                  Chunk.unsafeFromArray(fresh),
                  more
                    ? Option.some({ after: last, group: final?._tag === "Prefix" ? final.prefix : undefined })
                    : Option.none()
                ] as const
              })
          )
        })
      ),
    delete: (key) => remove("delete", key),
    deleteMany: (keys) =>
      Effect.map(
        Effect.partition([...new Set(keys)], (key) =>
          Effect.mapBoth(remove("deleteMany", key), { onFailure: (error) => ({ key, error }), onSuccess: () => key })
        ),
        ([failed, deleted]) => ({ deleted, failed })
      ),
    copy: (from, to, options) =>
      Effect.gen(function* () {
        yield* checkKey("copy", to)
        if (options?.replace !== undefined) yield* checkAttributes("copy", to, options.replace)
        const { bytes, info } = yield* find("copy", from, { ifMatch: options?.ifSourceMatch })
        return yield* write(to, bytes, { ...(options?.replace ?? info), checksum: info.checksum })
      }),
    presignGet: (key) => unsupported("presignGet", key),
    presignPut: (key) => unsupported("presignPut", key)
  })
})

/**
 * A store in this process as a layer.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory: Layer.Layer<ObjectStore> = Layer.effect(ObjectStore, makeMemory)
