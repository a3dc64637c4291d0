/** The port `ObjectStore` on a bucket. */
import { createHash } from "node:crypto"
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as HttpTransport from "@underlay/core/external/HttpTransport"
import * as ObjectStore from "@underlay/core/storage/ObjectStore"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { encode } from "../aws/sign.ts"
import { encodeKey, hasDots } from "./address.ts"
import type { Client } from "./client.ts"
import { noBucket, storeError } from "./errors.ts"
import * as Upload from "./upload.ts"
import * as Xml from "./xml.ts"

export interface Options {
  readonly client: Client
  readonly uploads: Upload.Uploads
  readonly bucket: string
  readonly capabilities: ObjectStore.Capabilities
  readonly partSize: number
  readonly concurrency: number
  readonly multipartAbove: number
  readonly copyInPartsAbove: number
  readonly conditionalMultipart: boolean
  readonly checksum: ObjectStore.Checksum["algorithm"] | undefined
  readonly resumeReads: number
  readonly completeRetries: number
  readonly transferTimeout: Duration.DurationInput
  readonly putHeaders: Readonly<Record<string, string>>
  /** Whether the etag of a condition of a put is in quotes. */
  readonly quotesIfMatch: boolean
}

type StoreError = ObjectStore.ObjectStoreError
type Headers = Readonly<Record<string, string | undefined>>

/** The most bytes of an object that is sent in one request. */
const maxSingle = 5 * 1_024 ** 3
/** What is as small is read again from its beginning where it breaks off. */
const inOneGo = 4_194_304
const maxObject = 5 * 1_024 ** 4

export const make = (options: Options): Context.Tag.Service<ObjectStore.ObjectStore> => {
  const { capabilities, client, concurrency, uploads } = options
  const fail = (
    reason: ObjectStore.ObjectStoreErrorReason,
    method: string,
    key: string | undefined,
    description: string
  ): StoreError =>
    new ObjectStore.ObjectStoreError({ reason, method, description, ...(key === undefined ? {} : { key }) })
  const mapped = (method: string, key: string | undefined) => (error: ConnectionError) => storeError(method, key, error)

  // ---- read ----------------------------------------------------------------------------------------------------------

  interface Opened {
    readonly info: ObjectStore.ObjectInfo
    readonly part: ObjectStore.Part
    readonly response: Effect.Effect.Success<ReturnType<Client["open"]>>
  }

  /** One request, its headers understood. */
  const request = (
    method: string,
    key: string,
    given: ObjectStore.GetOptions | undefined,
    head: boolean
  ): Effect.Effect<Opened, StoreError, Scope.Scope> =>
    Effect.flatMap(ObjectStore.checkGet(method, key, given), () => {
      const range = rangeOf(given?.range)
      return client
        .open({
          operation: head ? "HeadObject" : "GetObject",
          method: head ? "HEAD" : "GET",
          key,
          headers: {
            ...conditionHeaders(given),
            ...(range === undefined ? {} : { range }),
            ...(options.checksum === undefined ? {} : { "x-amz-checksum-mode": "ENABLED" })
          },
          accept: (status) => status === 200 || status === 206 || status === 304
        })
        .pipe(
          Effect.mapError(mapped(method, key)),
          Effect.flatMap((response) => {
            const { headers, status } = response
            if (status === 304) {
              return Effect.fail(fail("NotModified", method, key, "the object is the one that is known"))
            }
            const span = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(headers["content-range"] ?? "")
            const length = Number(headers["content-length"] ?? Number.NaN)
            if (range !== undefined && (status !== 206 || span === null)) {
              return Effect.fail(fail("Unsupported", method, key, "the endpoint does not give parts of objects"))
            }
            const size = span === null ? length : Number(span[3])
            const part =
              span === null
                ? { offset: 0, length }
                : { offset: Number(span[1]), length: Number(span[2]) - Number(span[1]) + 1 }
            return Number.isSafeInteger(size)
              ? Effect.succeed({ info: infoOf(key, headers, size), part, response })
              : Effect.fail(fail("Unknown", method, key, "the endpoint does not say how large the object is"))
          })
        )
    })

  const tooShort = (method: string, key: string) =>
    fail("Unavailable", method, key, "the object came to its end before its length")

  const isBroken = (error: StoreError) => error.reason === "Unavailable" || error.reason === "Timeout"

  /** What has to be checked when an object was read whole. */
  const expectedOf = ({ info, part }: Opened): ObjectStore.Checksum | undefined =>
    part.offset === 0 && part.length === info.size ? info.checksum : undefined

  type Pull = Effect.Effect<Chunk.Chunk<Uint8Array>, Option.Option<StoreError>>

  /**
   * The bytes of an answer, as they come. Where the connection breaks in their midst they go on with another that asks for
   * the rest of the same object; all of them belong to the scope.
   */
  const pullOfBody = (method: string, key: string, opened: Opened, scope: Scope.Scope): Pull => {
    const { info, part } = opened
    let left = options.resumeReads
    let at = 0
    const expected = expectedOf(opened)
    const follower = expected === undefined ? undefined : ObjectStore.checksum(expected.algorithm)
    const pullOf = ({ response }: Opened) => Effect.provideService(HttpTransport.pull(response), Scope.Scope, scope)
    let pull: Effect.Effect.Success<ReturnType<typeof pullOf>> | undefined
    const reopen = (error: StoreError): Pull => {
      if (left-- <= 0 || !isBroken(error)) return Effect.fail(Option.some(error))
      return request(
        method,
        key,
        { ifMatch: info.etag, range: { offset: part.offset + at, length: part.length - at } },
        false
      ).pipe(
        Effect.provideService(Scope.Scope, scope),
        // Not every endpoint and cache keeps to what it was asked for.
        Effect.filterOrFail(
          (again) => again.info.etag === info.etag,
          () => fail("Conflict", method, key, "the object was replaced while it was read: read it again")
        ),
        Effect.filterOrFail(
          (again) => again.part.offset === part.offset + at && again.part.length === part.length - at,
          () => fail("Unknown", method, key, "the endpoint gave another part than the one it was asked for")
        ),
        Effect.flatMap(pullOf),
        Effect.matchEffect({
          onFailure: (again) => (isBroken(again) ? reopen(again) : Effect.fail(Option.some(again))),
          onSuccess: (made) => {
            pull = made
            return next
          }
        })
      )
    }
    const next: Pull = Effect.suspend(() => {
      if (pull === undefined) {
        return Effect.flatMap(pullOf(opened), (made) => {
          pull = made
          return next
        })
      }
      return Effect.matchEffect(pull, {
        onSuccess: (chunk) => {
          for (const bytes of chunk) {
            at += bytes.length
            follower?.update(bytes)
          }
          return Effect.succeed(chunk)
        },
        onFailure: (end) => {
          if (at < part.length) {
            return reopen(
              Option.isSome(end)
                ? mapped(method, key)(client.fromTransport("GetObject", end.value))
                : tooShort(method, key)
            )
          }
          return expected !== undefined && follower?.digest() !== expected.value
            ? Effect.fail(Option.some(ObjectStore.checksumMismatch(method, key, expected.algorithm)))
            : Effect.fail(Option.none())
        }
      })
    })
    return next
  }

  const bodyOf = (
    method: string,
    key: string,
    opened: Opened
  ): Effect.Effect<Stream.Stream<Uint8Array, StoreError>, never, Scope.Scope> =>
    Effect.map(Effect.scope, (scope) =>
      Stream.suspend(() => Stream.repeatEffectChunkOption(pullOfBody(method, key, opened, scope)))
    )

  const roomOf = (key: string, length: number): Either.Either<Uint8Array, StoreError> =>
    Either.try({
      try: () => new Uint8Array(Buffer.allocUnsafeSlow(length).buffer),
      catch: () => fail("TooLarge", "get", key, "it is larger than what fits into memory in one piece: use stream")
    })

  /** All bytes of an answer, each put where it belongs as it comes. */
  const collected = (key: string, opened: Opened): Effect.Effect<Uint8Array, StoreError, Scope.Scope> =>
    Effect.flatMap(Effect.scope, (scope) => {
      const { length } = opened.part
      const pull = pullOfBody("get", key, opened, scope)
      const made = roomOf(key, length)
      if (Either.isLeft(made)) return Effect.fail(made.left)
      const room = made.right
      let at = 0
      const rest: Effect.Effect<Uint8Array, StoreError> = Effect.matchEffect(pull, {
        onSuccess: (chunk) => {
          for (const bytes of chunk) {
            if (at + bytes.length > length) {
              return Effect.fail(fail("Unknown", "get", key, "the endpoint gave more than it said that it would"))
            }
            room.set(bytes, at)
            at += bytes.length
          }
          return rest
        },
        onFailure: (end) => (Option.isSome(end) ? Effect.fail(end.value) : Effect.succeed(room))
      })
      return rest
    })

  const open = (
    method: string,
    key: string,
    given: ObjectStore.GetOptions | undefined
  ): Effect.Effect<ObjectStore.OpenObject, StoreError, Scope.Scope> =>
    Effect.flatMap(request(method, key, given, false), (opened) =>
      Effect.map(bodyOf(method, key, opened), (body) => ({ info: opened.info, part: opened.part, body }))
    )

  const get = (key: string, given?: ObjectStore.GetOptions): Effect.Effect<ObjectStore.ObjectData, StoreError> => {
    // The request itself is tried again by the connection; this is for the bytes of what is small. What is large may break
    // off more easily, and goes on where it was.
    const attempt = (left: number): Effect.Effect<ObjectStore.ObjectData, StoreError> =>
      Effect.scoped(
        Effect.flatMap(request("get", key, given, false), (opened) => {
          const { length } = opened.part
          const bytes: Effect.Effect<Either.Either<Uint8Array, StoreError>, StoreError, Scope.Scope> = length > inOneGo
            ? Effect.map(collected(key, opened), Either.right)
            : Effect.matchEffect(opened.response.arrayBuffer, {
                onSuccess: (buffer): Effect.Effect<Either.Either<Uint8Array, StoreError>, StoreError> => {
                  const bytes = new Uint8Array(buffer)
                  const expected = expectedOf(opened)
                  if (bytes.length !== opened.part.length) {
                    return Effect.succeed(Either.left(tooShort("get", key)))
                  }
                  return expected !== undefined && Upload.digestOf(expected.algorithm, bytes) !== expected.value
                    ? Effect.fail(ObjectStore.checksumMismatch("get", key, expected.algorithm))
                    : Effect.succeed(Either.right(bytes))
                },
                onFailure: (error) =>
                  Effect.succeed(Either.left(mapped("get", key)(client.fromTransport("GetObject", error))))
              })
          return Effect.map(bytes, (bytes) => ({ info: opened.info, part: opened.part, bytes }))
        })
      ).pipe(
        Effect.flatMap(({ bytes, info, part }) => {
          if (Either.isRight(bytes)) return Effect.succeed({ info, part, bytes: bytes.right })
          return left > 0 && isBroken(bytes.left) ? attempt(left - 1) : Effect.fail(bytes.left)
        })
      )
    return attempt(options.resumeReads)
  }

  // An answer to HEAD has no body: that an object is not there, and that its bucket is not, are the same 404. So the
  // bucket is asked for, once a minute at the most.
  let bucketAsked = Number.NEGATIVE_INFINITY
  const orBucket = (method: string, key: string, error: StoreError): Effect.Effect<never, StoreError> =>
    error.reason !== "NotFound"
      ? Effect.fail(error)
      : Effect.flatMap(Clock.currentTimeMillis, (now) => {
          if (now - bucketAsked < 60_000) return Effect.fail(error)
          return Effect.matchEffect(client.headers({ operation: "HeadBucket", method: "HEAD" }), {
            onSuccess: () => {
              bucketAsked = now
              return Effect.fail(error)
            },
            onFailure: (of) => {
              if (of.reason === "NotFound") return Effect.fail(storeError(method, key, noBucket(of)))
              // Who may not ask for the bucket may not in a moment either.
              bucketAsked = now
              return Effect.fail(error)
            }
          })
        })

  const head = (key: string, conditions?: ObjectStore.Conditions, method = "head") =>
    Effect.catchAll(Effect.scoped(Effect.map(request(method, key, conditions, true), ({ info }) => info)), (error) =>
      orBucket(method, key, error)
    )

  // ---- write ---------------------------------------------------------------------------------------------------------

  const single = (
    key: string,
    bytes: Uint8Array,
    given: ObjectStore.PutOptions,
    checksum: ObjectStore.Checksum | undefined
  ): Effect.Effect<ObjectStore.StoredObject, StoreError> =>
    client
      .headers({
        operation: "PutObject",
        method: "PUT",
        key,
        headers: {
          ...objectHeaders(given, options.putHeaders),
          ...putConditions(given),
          ...(checksum === undefined ? {} : { [`x-amz-checksum-${checksum.algorithm}`]: checksum.value })
        },
        body: bytes,
        idempotent: given.ifMatch === undefined && given.ifNoneMatch === undefined,
        timeout: options.transferTimeout
      })
      .pipe(
        Effect.mapError(putError(key, given)),
        Effect.flatMap((headers) => {
          const etag = headers["etag"]
          return etag === undefined
            ? Effect.fail(fail("Unknown", "put", key, "the endpoint took the object and gave no etag"))
            : Effect.succeed({ key, size: bytes.length, etag: Upload.unquoted(etag) })
        })
      )

  /** There is none with the etag where there is none at all. */
  const putError = (key: string, given: ObjectStore.PutOptions) => (error: ConnectionError) =>
    given.ifMatch !== undefined && error.reason === "NotFound" && error.code !== "NoSuchBucket"
      ? ObjectStore.conflict("put", key, given)
      : storeError("put", key, error)

  const putConditions = (given: ObjectStore.PutOptions): Record<string, string> => ({
    ...(given.ifNoneMatch === undefined ? {} : { "if-none-match": "*" }),
    // Ceph 16 compares what it is given as it is; what keeps to the letter of HTTP takes nothing without quotes.
    ...(given.ifMatch === undefined
      ? {}
      : { "if-match": options.quotesIfMatch ? quoted(given.ifMatch) : given.ifMatch })
  })

  const putBytes = (key: string, bytes: Uint8Array, given: ObjectStore.PutOptions) => {
    if (given.size !== undefined && given.size !== bytes.length)
      return Effect.fail(ObjectStore.sizeMismatch(key, given.size))
    if (given.checksum !== undefined && Upload.digestOf(given.checksum.algorithm, bytes) !== given.checksum.value) {
      return Effect.fail(ObjectStore.checksumMismatch("put", key, given.checksum.algorithm))
    }
    const conditional = given.ifMatch !== undefined || given.ifNoneMatch !== undefined
    const inParts = bytes.length > options.multipartAbove && (!conditional || options.conditionalMultipart)
    if (inParts || bytes.length > maxSingle) {
      const partSize = Upload.partSizeFor(options.partSize, bytes.length)
      return multipart(key, given, Upload.partsOfBytes(bytes, partSize, concurrency))
    }
    return single(key, bytes, given, checksumOf(bytes, given.checksum))
  }

  const checksumOf = (bytes: Uint8Array, given: ObjectStore.Checksum | undefined): ObjectStore.Checksum | undefined => {
    const algorithm = options.checksum
    if (algorithm === undefined) return undefined
    return given?.algorithm === algorithm ? given : { algorithm, value: Upload.digestOf(algorithm, bytes) }
  }

  const multipart = <E>(
    key: string,
    given: ObjectStore.PutOptions,
    parts: Upload.Parts<E>
  ): Effect.Effect<ObjectStore.StoredObject, E | StoreError> =>
    unlessClosed(
      "put",
      key,
      Upload.upload(
        client,
        uploads,
        {
          key,
          headers: objectHeaders(given, options.putHeaders),
          conditions: putConditions(given),
          timeout: options.transferTimeout,
          checksum: options.checksum,
          retries: options.completeRetries
        },
        "put",
        parts
      )
    )

  const unlessClosed = <A, E>(method: string, key: string, effect: Effect.Effect<A, E | StoreError>) =>
    uploads.run(Effect.either(effect)).pipe(
      Effect.mapError(mapped(method, key)),
      Effect.flatMap((result) => (Either.isRight(result) ? Effect.succeed(result.right) : Effect.fail(result.left)))
    )

  /** In one request, as it comes: for where a condition forbids parts. */
  const streamed = <E>(
    key: string,
    stream: Stream.Stream<Uint8Array, E | StoreError>,
    size: number,
    given: ObjectStore.PutOptions
  ): Effect.Effect<ObjectStore.StoredObject, E | StoreError> =>
    Effect.gen(function* () {
      const failed = yield* Deferred.make<never, E | StoreError>()
      const sent = client
        .headers({
          operation: "PutObject",
          method: "PUT",
          key,
          headers: { ...objectHeaders(given, options.putHeaders), ...putConditions(given) },
          body: {
            // The request is given up when its stream fails: with the stream's own error.
            stream: Stream.catchAllCause(stream, (cause) =>
              Stream.concat(Stream.drain(Stream.fromEffect(Deferred.failCause(failed, cause))), Stream.never)
            ),
            size
          },
          idempotent: false,
          timeout: options.transferTimeout
        })
        .pipe(
          Effect.mapError(putError(key, given)),
          Effect.map((headers) => ({ key, size, etag: Upload.unquoted(headers["etag"] ?? "") }))
        )
      return yield* Effect.raceFirst(sent, Deferred.await(failed))
    })

  const putStream = <E>(
    key: string,
    stream: Stream.Stream<Uint8Array, E>,
    given: ObjectStore.PutOptions
  ): Effect.Effect<ObjectStore.StoredObject, E | StoreError> => {
    const { size } = given
    if (size !== undefined && size > maxObject) {
      return Effect.fail(fail("TooLarge", "put", key, "an object has at most 5 TiB"))
    }
    const checked = ObjectStore.verified(key, stream, given)
    const conditional = given.ifMatch !== undefined || given.ifNoneMatch !== undefined
    const whole = conditional && !options.conditionalMultipart
    if (whole && size !== undefined && size > options.partSize) {
      return size > maxSingle
        ? Effect.fail(fail("TooLarge", "put", key, "under a condition an object has at most 5 GiB here"))
        : streamed(key, checked, size, given)
    }
    const partSize = size === undefined ? options.partSize : Upload.partSizeFor(options.partSize, size)
    // What ends within the first part is no upload in parts. The stream is read by one reader throughout.
    return Effect.scoped(
      Effect.gen(function* () {
        const pull = yield* Stream.toPull(checked)
        const pieces: Array<Uint8Array> = []
        let read = 0
        let ended = false
        while (!ended && read <= partSize) {
          const next = yield* Effect.either(pull)
          if (Either.isRight(next)) {
            for (const bytes of next.right) {
              pieces.push(bytes)
              read += bytes.length
            }
          } else if (Option.isNone(next.left)) ended = true
          else return yield* Effect.fail(next.left.value)
        }
        // The checksum was followed as it came.
        if (ended) {
          const bytes = ObjectStore.concat(pieces)
          return yield* single(key, bytes, given, checksumOf(bytes, given.checksum))
        }
        if (whole) {
          return yield* fail(
            "Unsupported",
            "put",
            key,
            "a stream of unknown length under a condition: give its size, or conditionalMultipart where the endpoint has it"
          )
        }
        let begun: Array<Uint8Array> | undefined = pieces
        const rest = Stream.repeatEffectChunkOption(
          Effect.suspend(() => {
            if (begun === undefined) return pull
            const first = Chunk.unsafeFromArray(begun)
            begun = undefined
            return Effect.succeed(first)
          })
        )
        return yield* multipart(key, given, Upload.partsOfStream(rest, partSize, concurrency, size === undefined))
      })
    )
  }

  const put = <E = never>(
    key: string,
    body: ObjectStore.Body<E>,
    given: ObjectStore.PutOptions = {}
  ): Effect.Effect<ObjectStore.StoredObject, E | StoreError> =>
    Effect.flatMap(
      ObjectStore.checkPut(key, given, capabilities),
      (): Effect.Effect<ObjectStore.StoredObject, E | StoreError> =>
        typeof body === "string" || body instanceof Uint8Array
          ? putBytes(key, ObjectStore.bytesOf(body), given)
          : putStream(key, body, given)
    )

  // ---- list ----------------------------------------------------------------------------------------------------------

  interface Cursor {
    readonly token: string | undefined
    readonly last: string | undefined
  }

  const firstPage: Cursor = { token: undefined, last: undefined }

  const page = (given: ObjectStore.ListOptions, pageSize: number, cursor: Cursor) => {
    const query = [
      "list-type=2",
      "encoding-type=url",
      `max-keys=${pageSize}`,
      ...(given.prefix === undefined || given.prefix === "" ? [] : [`prefix=${encode(given.prefix)}`]),
      ...(given.delimiter === undefined ? [] : [`delimiter=${encode(given.delimiter)}`]),
      ...(cursor.token !== undefined
        ? [`continuation-token=${encode(cursor.token)}`]
        : given.startAfter === undefined || given.startAfter === ""
          ? []
          : [`start-after=${encode(given.startAfter)}`])
    ].join("&")
    return client.text({ operation: "ListObjectsV2", method: "GET", query }).pipe(
      Effect.mapError(mapped("list", undefined)),
      Effect.flatMap(({ text }) => {
        const root = Xml.parse(text)
        if (root === undefined || root.name !== "ListBucketResult") {
          return Effect.fail(fail("Unknown", "list", undefined, "the answer is no list of a bucket"))
        }
        const plain = Xml.textOf(root, "EncodingType") === "url" ? decodeName : (name: string) => name
        const entries: Array<ObjectStore.ListEntry> = []
        for (const element of root.children) {
          if (element.name === "Contents") {
            entries.push({
              _tag: "Object",
              key: plain(Xml.textOf(element, "Key") ?? ""),
              size: Number(Xml.textOf(element, "Size") ?? "0"),
              etag: Upload.unquoted(Xml.textOf(element, "ETag") ?? ""),
              lastModified: new Date(Xml.textOf(element, "LastModified") ?? Number.NaN)
            })
          } else if (element.name === "CommonPrefixes") {
            entries.push({ _tag: "Prefix", prefix: plain(Xml.textOf(element, "Prefix") ?? "") })
          }
        }
        entries.sort((a, b) => ObjectStore.compareKeys(nameOf(a), nameOf(b)))
        const token = Xml.textOf(root, "IsTruncated") === "true" ? Xml.textOf(root, "NextContinuationToken") : undefined
        const final = entries.at(-1)
        const last = final === undefined ? cursor.last : nameOf(final)
        // A token that leads nowhere would be followed for ever.
        if (token !== undefined && (token === cursor.token || (entries.length > 0 && last === cursor.last))) {
          return Effect.fail(fail("Unknown", "list", undefined, "the endpoint's list does not come to an end"))
        }
        // Some endpoints begin a page with the prefix that the last one ended with.
        const fresh = entries.filter((entry) => nameOf(entry) !== cursor.last)
        return Effect.succeed([
          Chunk.unsafeFromArray(fresh),
          token === undefined ? Option.none<Cursor>() : Option.some<Cursor>({ token, last })
        ] as const)
      })
    )
  }

  const list = (given: ObjectStore.ListOptions = {}): Stream.Stream<ObjectStore.ListEntry, StoreError> =>
    Stream.unwrap(
      Effect.map(ObjectStore.checkList(given), (pageSize) =>
        Stream.paginateChunkEffect(firstPage, (cursor) => page(given, pageSize, cursor))
      )
    )

  // ---- delete --------------------------------------------------------------------------------------------------------

  const remove = (method: string, key: string): Effect.Effect<void, StoreError> =>
    Effect.flatMap(ObjectStore.checkKey(method, key), () =>
      client.headers({ operation: "DeleteObject", method: "DELETE", key }).pipe(
        Effect.asVoid,
        Effect.catchIf(
          // Some endpoints tell of what was not there.
          (error) => error.reason === "NotFound" && error.code !== "NoSuchBucket",
          () => Effect.void
        ),
        Effect.mapError(mapped(method, key))
      )
    )

  type Failed = ObjectStore.Deleted["failed"][number]

  const removeBatch = (keys: ReadonlyArray<string>): Effect.Effect<ReadonlyArray<Failed>> => {
    const body = Buffer.from(
      `<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>true</Quiet>${keys
        .map((key) => `<Object><Key>${Xml.escape(key)}</Key></Object>`)
        .join("")}</Delete>`
    )
    return client
      .text({
        operation: "DeleteObjects",
        method: "POST",
        query: "delete=",
        headers: { "content-type": "application/xml", "content-md5": createHash("md5").update(body).digest("base64") },
        body,
        idempotent: true
      })
      .pipe(
        Effect.match({
          onFailure: (error): ReadonlyArray<Failed> =>
            keys.map((key) => ({ key, error: storeError("deleteMany", key, error) })),
          onSuccess: ({ text }) => {
            const root = Xml.parse(text)
            if (root === undefined || root.name !== "DeleteResult") {
              return keys.map((key) => ({
                key,
                error: fail("Unknown", "deleteMany", key, "the answer says nothing of it")
              }))
            }
            const asked = new Set(keys)
            const failed: Array<Failed> = []
            for (const element of root.children) {
              if (element.name !== "Error") continue
              const key = Xml.textOf(element, "Key") ?? ""
              const code = Xml.textOf(element, "Code") ?? ""
              if (code === "NoSuchKey") continue
              // It is one of them by another name, and which is not known.
              if (!asked.has(key)) return keys.map((key) => ({ key, error: deleteError(key, code) }))
              failed.push({ key, error: deleteError(key, code) })
            }
            return failed
          }
        })
      )
  }

  const deleteError = (key: string, code: string): StoreError =>
    new ObjectStore.ObjectStoreError({
      reason: code === "AccessDenied" ? "PermissionDenied" : code === "SlowDown" ? "Throttled" : "Unavailable",
      method: "deleteMany",
      key,
      code,
      description: code === "AccessDenied" ? "the credentials do not permit to delete it" : "it was not deleted"
    })

  const deleteMany = (keys: Iterable<string>): Effect.Effect<ObjectStore.Deleted, StoreError> =>
    Effect.gen(function* () {
      const failed: Array<Failed> = []
      const single: Array<string> = []
      const batched: Array<string> = []
      const asked = [...new Set(keys)]
      for (const key of asked) {
        const checked = yield* Effect.either(ObjectStore.checkKey("deleteMany", key))
        if (Either.isLeft(checked)) failed.push({ key, error: checked.left })
        else if (Xml.isWritable(key)) batched.push(key)
        else single.push(key)
      }
      const batches = Array.from({ length: Math.ceil(batched.length / 1_000) }, (_, i) =>
        batched.slice(i * 1_000, (i + 1) * 1_000)
      )
      for (const some of yield* Effect.forEach(batches, removeBatch, { concurrency })) failed.push(...some)
      const [rest] = yield* Effect.partition(
        single,
        (key) => Effect.mapError(remove("deleteMany", key), (error) => ({ key, error })),
        { concurrency }
      )
      failed.push(...rest)
      const without = new Set(failed.map(({ key }) => key))
      return { deleted: asked.filter((key) => !without.has(key)), failed }
    })

  // ---- copy ----------------------------------------------------------------------------------------------------------

  const copy = (
    from: string,
    to: string,
    given: ObjectStore.CopyOptions = {}
  ): Effect.Effect<ObjectStore.StoredObject, StoreError> =>
    Effect.gen(function* () {
      yield* ObjectStore.checkKey("copy", to)
      if (given.replace !== undefined) yield* ObjectStore.checkAttributes("copy", to, given.replace)
      const source = yield* head(from, { ifMatch: given.ifSourceMatch }, "copy")
      // S3 takes it for a mistake.
      if (from === to && given.replace === undefined) return { key: to, size: source.size, etag: source.etag }
      const headers = {
        "x-amz-copy-source": `/${encode(options.bucket)}/${encodeKey(from)}`,
        "x-amz-copy-source-if-match": `"${source.etag}"`
      }
      if (source.size > options.copyInPartsAbove) {
        const partSize = Upload.partSizeFor(Math.min(options.copyInPartsAbove, 512 * 1_024 ** 2), source.size)
        return yield* copyInParts(source, to, given.replace ?? source, headers, partSize)
      }
      const { text } = yield* client
        .text({
          operation: "CopyObject",
          method: "PUT",
          key: to,
          headers: {
            ...headers,
            ...(given.replace === undefined
              ? {}
              : { ...objectHeaders(given.replace, {}), "x-amz-metadata-directive": "REPLACE" }),
            ...options.putHeaders
          },
          timeout: options.transferTimeout
        })
        .pipe(Effect.mapError(mapped("copy", from)))
      const root = Xml.parse(text)
      return { key: to, size: source.size, etag: Upload.unquoted((root && Xml.textOf(root, "ETag")) ?? source.etag) }
    }).pipe(
      // The source was replaced between the two requests.
      Effect.retry({ times: 2, while: (error) => error.reason === "Conflict" && given.ifSourceMatch === undefined })
    )

  const copyInParts = (
    source: ObjectStore.ObjectInfo,
    to: string,
    attributes: ObjectStore.Attributes,
    headers: Readonly<Record<string, string>>,
    partSize: number
  ) =>
    unlessClosed(
      "copy",
      to,
      Upload.upload<never>(
        client,
        uploads,
        {
          key: to,
          headers: objectHeaders(attributes, options.putHeaders),
          conditions: {},
          timeout: options.transferTimeout,
          checksum: undefined,
          retries: options.completeRetries
        },
        "copy",
        ({ id, mapError }) =>
          Effect.map(
            Effect.forEach(
              Array.from({ length: Math.ceil(source.size / partSize) }, (_, i) => i),
              (i) =>
                client
                  .text({
                    operation: "UploadPartCopy",
                    method: "PUT",
                    key: to,
                    query: `partNumber=${i + 1}&uploadId=${encode(id)}`,
                    headers: {
                      ...headers,
                      "x-amz-copy-source-range": `bytes=${i * partSize}-${Math.min(source.size, (i + 1) * partSize) - 1}`
                    },
                    timeout: options.transferTimeout
                  })
                  .pipe(
                    Effect.mapError(mapError),
                    Effect.map(({ text }) => {
                      const root = Xml.parse(text)
                      return { number: i + 1, etag: (root && Xml.textOf(root, "ETag")) ?? "", checksum: undefined }
                    })
                  ),
              { concurrency }
            ),
            (parts) => ({ parts, size: source.size })
          )
      )
    )

  // ---- URLs ----------------------------------------------------------------------------------------------------------

  const secondsOf = (
    method: string,
    key: string,
    given: ObjectStore.PresignOptions | undefined
  ): Effect.Effect<number, StoreError> => {
    const seconds = Option.getOrElse(
      Option.map(Duration.decodeUnknown(given?.expiresIn ?? "1 hour"), (duration) =>
        Math.floor(Duration.toSeconds(duration))
      ),
      () => 0
    )
    if (!(seconds >= 1 && seconds <= 604_800)) {
      return Effect.fail(fail("InvalidRequest", method, key, "expiresIn is from a second to seven days"))
    }
    return hasDots(key)
      ? Effect.fail(fail("InvalidKey", method, key, "a URL cannot name a key with the segments . or .."))
      : Effect.as(ObjectStore.checkKey(method, key), seconds)
  }

  /** Checks all that a URL is made of, and gives the seconds it is good for. */
  const presigning = (method: string, key: string, given: ObjectStore.PresignGetOptions | undefined) =>
    Effect.zipRight(
      ObjectStore.checkAttributes(method, key, {
        contentType: given?.contentType,
        contentDisposition: given?.contentDisposition
      }),
      secondsOf(method, key, given)
    )

  return {
    capabilities,
    put,
    get,
    open: (key, given) => open("open", key, given),
    stream: (key, given) => Stream.unwrapScoped(Effect.map(open("stream", key, given), ({ body }) => body)),
    head,
    exists: (key) =>
      Effect.as(head(key, undefined, "exists"), true).pipe(
        Effect.catchIf(
          (error) => error.reason === "NotFound",
          () => Effect.succeed(false)
        )
      ),
    list,
    delete: (key) => remove("delete", key),
    deleteMany,
    copy,
    presignGet: (key, given) =>
      Effect.flatMap(presigning("presignGet", key, given), (seconds) => {
        const query = [
          ...(given?.contentType === undefined ? [] : [`response-content-type=${encode(given.contentType)}`]),
          ...(given?.contentDisposition === undefined
            ? []
            : [`response-content-disposition=${encode(given.contentDisposition)}`])
        ].join("&")
        return Effect.mapError(client.presign("GET", key, { query, headers: {}, seconds }), mapped("presignGet", key))
      }),
    presignPut: (key, given) =>
      Effect.flatMap(presigning("presignPut", key, given), (seconds) =>
        Effect.mapError(
          client.presign("PUT", key, {
            query: "",
            headers: given?.contentType === undefined ? {} : { "content-type": given.contentType },
            seconds
          }),
          mapped("presignPut", key)
        )
      )
  }
}

const nameOf = (entry: ObjectStore.ListEntry): string => (entry._tag === "Object" ? entry.key : entry.prefix)

const decodeName = (name: string): string => {
  try {
    return decodeURIComponent(name.replace(/\+/g, " "))
  } catch {
    return name
  }
}

const rangeOf = (range: ObjectStore.Range | undefined): string | undefined => {
  if (range === undefined) return undefined
  if ("last" in range) return `bytes=-${range.last}`
  return `bytes=${range.offset}-${range.length === undefined ? "" : range.offset + range.length - 1}`
}

const conditionHeaders = (conditions: ObjectStore.Conditions | undefined): Record<string, string> => {
  const headers: Record<string, string> = {}
  if (conditions === undefined) return headers
  const { ifMatch, ifModifiedSince, ifNoneMatch, ifUnmodifiedSince } = conditions
  if (ifMatch !== undefined) headers["if-match"] = quoted(ifMatch)
  if (ifNoneMatch !== undefined) headers["if-none-match"] = quoted(ifNoneMatch)
  if (ifModifiedSince !== undefined && ifNoneMatch === undefined) {
    headers["if-modified-since"] = ifModifiedSince.toUTCString()
  }
  if (ifUnmodifiedSince !== undefined && ifMatch === undefined) {
    headers["if-unmodified-since"] = ifUnmodifiedSince.toUTCString()
  }
  return headers
}

const quoted = (etag: string): string => (etag === "*" ? "*" : `"${etag}"`)

const objectHeaders = (
  attributes: ObjectStore.Attributes,
  more: Readonly<Record<string, string>>
): Record<string, string> => {
  const headers: Record<string, string> = { "content-type": attributes.contentType ?? "application/octet-stream" }
  if (attributes.cacheControl !== undefined) headers["cache-control"] = attributes.cacheControl
  if (attributes.contentDisposition !== undefined) headers["content-disposition"] = attributes.contentDisposition
  if (attributes.contentEncoding !== undefined) headers["content-encoding"] = attributes.contentEncoding
  if (attributes.contentLanguage !== undefined) headers["content-language"] = attributes.contentLanguage
  for (const [name, value] of Object.entries(attributes.metadata ?? {})) headers[`x-amz-meta-${name}`] = value
  return { ...headers, ...more }
}

const infoOf = (key: string, headers: Headers, size: number): ObjectStore.ObjectInfo => {
  const metadata: Array<readonly [string, string]> = []
  for (const [name, value] of Object.entries(headers)) {
    if (name.startsWith("x-amz-meta-") && value !== undefined) metadata.push([name.slice(11), value])
  }
  const sha256 = headers["x-amz-checksum-sha256"]
  const crc32c = headers["x-amz-checksum-crc32c"]
  // That of an object of parts is one of the parts' checksums.
  const whole = (value: string | undefined): value is string => value !== undefined && !value.includes("-")
  const modified = new Date(headers["last-modified"] ?? 0)
  return {
    key,
    size,
    etag: Upload.unquoted(headers["etag"] ?? ""),
    lastModified: modified,
    contentType: headers["content-type"] ?? "application/octet-stream",
    ...(headers["cache-control"] === undefined ? {} : { cacheControl: headers["cache-control"] }),
    ...(headers["content-disposition"] === undefined ? {} : { contentDisposition: headers["content-disposition"] }),
    ...(headers["content-encoding"] === undefined ? {} : { contentEncoding: headers["content-encoding"] }),
    ...(headers["content-language"] === undefined ? {} : { contentLanguage: headers["content-language"] }),
    metadata: Object.fromEntries(metadata),
    ...(whole(sha256)
      ? { checksum: { algorithm: "sha256" as const, value: sha256 } }
      : whole(crc32c)
        ? { checksum: { algorithm: "crc32c" as const, value: crc32c } }
        : {})
  }
}
