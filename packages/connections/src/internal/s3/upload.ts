/**
 * Uploads in parts: memory for a few parts at the most, several on the way at once, and nothing left behind when one
 * fails, is interrupted, or the connection is released.
 */
import { createHash } from "node:crypto"
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as ObjectStore from "@underlay/core/storage/ObjectStore"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { encode } from "../aws/sign.ts"
import type { Client } from "./client.ts"
import { storeError } from "./errors.ts"
import * as Xml from "./xml.ts"

/** The uploads under way on a connection, so that its release can end them. */
export interface Uploads {
  /** Runs one: it is refused once the release has begun, and cut when it does not wait any longer. */
  readonly run: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E | ConnectionError>
  /**
   * Undoes something. Who was interrupted waits two seconds for it at the most; after that it goes on in the background,
   * and the release of the connection waits for it.
   */
  readonly undo: (effect: Effect.Effect<void>) => Effect.Effect<void>
}

/** To be made after the connection: it is released before it. */
export const makeUploads = (
  at: { readonly kind: string; readonly name: string },
  drainTimeout: Duration.DurationInput
): Effect.Effect<Uploads, never, Scope.Scope> =>
  Effect.gen(function* () {
    const closed = new ConnectionError({
      reason: "Closed",
      kind: at.kind,
      connection: at.name,
      method: "S3.put",
      description: "the connection is released: the upload was given up"
    })
    let releasing = false
    let active = 0
    const idle = yield* Deferred.make<void>()
    const cut = yield* Deferred.make<never, ConnectionError>()
    const leave = Effect.suspend(() => {
      active--
      return releasing && active === 0 ? Deferred.succeed(idle, undefined) : Effect.void
    })
    yield* Effect.addFinalizer(() =>
      Effect.gen(function* () {
        releasing = true
        if (active === 0) return
        const ended = yield* Effect.timeoutOption(Effect.interruptible(Deferred.await(idle)), drainTimeout)
        if (ended._tag === "Some") return
        yield* Deferred.fail(cut, closed)
        yield* Effect.timeoutOption(Effect.interruptible(Deferred.await(idle)), "5 seconds")
      }).pipe(Effect.interruptible)
    )
    return {
      run: (effect) =>
        Effect.suspend(() => {
          if (releasing) return Effect.fail(closed)
          active++
          return Effect.ensuring(Effect.raceFirst(effect, Deferred.await(cut)), leave)
        }),
      undo: (effect) =>
        Effect.suspend(() => {
          active++
          return Effect.flatMap(Effect.forkDaemon(Effect.ensuring(effect, leave)), (fiber) =>
            Effect.asVoid(Effect.timeoutOption(Effect.interruptible(Fiber.await(fiber)), "2 seconds"))
          )
        })
    }
  })

export interface UploadOptions {
  readonly key: string
  /** Of the object: its type, metadata, and what else the settings add. */
  readonly headers: Readonly<Record<string, string>>
  /** Of the completion: conditions. */
  readonly conditions: Readonly<Record<string, string>>
  readonly timeout: Duration.DurationInput
  readonly checksum: ObjectStore.Checksum["algorithm"] | undefined
  /** How often a completion of which no answer came is sent again. */
  readonly retries: number
}

interface Part {
  readonly number: number
  readonly etag: string
  readonly checksum: string | undefined
}

type StoreError = ObjectStore.ObjectStoreError

/** What makes an upload's parts, by its id: each gives a part when it is done. */
export type Parts<E> = (upload: {
  readonly id: string
  /** Sends the bytes as the part of this number. */
  readonly send: (number: number, bytes: Uint8Array) => Effect.Effect<Part, StoreError>
  readonly mapError: (error: ConnectionError) => StoreError
}) => Effect.Effect<{ readonly parts: ReadonlyArray<Part>; readonly size: number }, E | StoreError>

/** Makes an upload, its parts and the object; where that does not come to its end, the upload is aborted. */
export const upload = <E>(
  client: Client,
  uploads: Uploads,
  options: UploadOptions,
  method: string,
  makeParts: Parts<E>
): Effect.Effect<ObjectStore.StoredObject, E | StoreError> => {
  const { checksum, key } = options
  const mapError = (error: ConnectionError) => storeError(method, key, error)

  const create = client
    .text({
      operation: "CreateMultipartUpload",
      method: "POST",
      key,
      query: "uploads=",
      headers: {
        ...options.headers,
        ...(checksum === undefined ? {} : { "x-amz-checksum-algorithm": checksum.toUpperCase() })
      }
    })
    .pipe(
      Effect.mapError(mapError),
      Effect.flatMap(({ text }) => {
        const root = Xml.parse(text)
        const id = root === undefined ? undefined : Xml.textOf(root, "UploadId")
        return id === undefined || id === ""
          ? Effect.fail(unexpected(method, key, "the endpoint began an upload without an id"))
          : Effect.succeed(id)
      })
    )

  /** Parts that are still on their way may arrive after it, so it is sent until the endpoint knows of no upload. */
  const abort = (id: string): Effect.Effect<void> =>
    client
      .headers({
        operation: "AbortMultipartUpload",
        method: "DELETE",
        key,
        query: `uploadId=${encode(id)}`,
        timeout: "5 seconds"
      })
      .pipe(
        Effect.as(false),
        Effect.catchIf(
          (error) => error.reason === "NotFound",
          () => Effect.succeed(true)
        ),
        Effect.retry({ times: 3, schedule: Schedule.exponential("100 millis") }),
        Effect.repeat({ until: (gone) => gone, times: 3, schedule: Schedule.exponential("50 millis") }),
        Effect.ignore
      )

  /** The id is learned, whatever happens to who asked: an upload that nobody knows of could not be aborted. */
  const begun = (restore: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>) =>
    Effect.flatMap(Effect.forkDaemon(Effect.interruptible(create)), (fiber) =>
      Effect.onInterrupt(restore(Fiber.join(fiber)), () =>
        uploads.undo(
          Effect.flatMap(Fiber.await(fiber), (exit) => (Exit.isSuccess(exit) ? abort(exit.value) : Effect.void))
        )
      )
    )

  const send =
    (id: string) =>
    (number: number, bytes: Uint8Array): Effect.Effect<Part, StoreError> =>
      Effect.suspend(() => {
        const digest = checksum === undefined ? undefined : digestOf(checksum, bytes)
        return client
          .headers({
            operation: "UploadPart",
            method: "PUT",
            key,
            query: `partNumber=${number}&uploadId=${encode(id)}`,
            body: bytes,
            timeout: options.timeout,
            ...(checksum === undefined || digest === undefined
              ? {}
              : { headers: { [`x-amz-checksum-${checksum}`]: digest } })
          })
          .pipe(
            Effect.mapError(mapError),
            Effect.flatMap((headers) => {
              const etag = headers["etag"]
              return etag === undefined
                ? Effect.fail(unexpected(method, key, "the endpoint took a part and gave no etag"))
                : Effect.succeed({ number, etag, checksum: digest })
            })
          )
      })

  const complete = (id: string, parts: ReadonlyArray<Part>, size: number) => {
    const tag = checksum === undefined ? "" : `Checksum${checksum.toUpperCase()}`
    const body = Buffer.from(
      `<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${parts
        .map(
          (part) =>
            `<Part><PartNumber>${part.number}</PartNumber><ETag>${Xml.escape(part.etag)}</ETag>${
              part.checksum === undefined ? "" : `<${tag}>${part.checksum}</${tag}>`
            }</Part>`
        )
        .join("")}</CompleteMultipartUpload>`
    )
    const expected = etagOf(parts)
    const post = client
      .text({
        operation: "CompleteMultipartUpload",
        method: "POST",
        key,
        query: `uploadId=${encode(id)}`,
        headers: { "content-type": "application/xml", ...options.conditions },
        body,
        timeout: options.timeout
      })
      .pipe(
        Effect.map(({ text }) => {
          const root = Xml.parse(text)
          const etag = root === undefined ? undefined : Xml.textOf(root, "ETag")
          // Ceph 16 says nothing here.
          return { key, size, etag: unquoted(etag === undefined || etag === "" ? (expected ?? "") : etag) }
        })
      )
    /** Whether the endpoint still has the upload: then it is not complete, whatever object there is. */
    const pending = client
      .headers({ operation: "ListParts", method: "GET", key, query: `max-parts=1&uploadId=${encode(id)}` })
      .pipe(
        Effect.as("yes" as const),
        Effect.catchAll((error) => Effect.succeed(error.reason === "NotFound" ? ("no" as const) : ("unknown" as const)))
      )
    /** Whether the object that is there is the one of these parts. */
    const there = client.headers({ operation: "HeadObject", method: "HEAD", key }).pipe(
      Effect.map((headers) => expected !== undefined && unquoted(headers["etag"] ?? "") === expected),
      Effect.catchAll(() => Effect.succeed(false))
    )
    const attempt = (left: number, before: boolean): Effect.Effect<ObjectStore.StoredObject, StoreError> =>
      Effect.catchAll(post, (error) => {
        const unknown = (error.reason === "Unavailable" || error.reason === "Timeout") && error.sent !== false
        // That there is no such upload, or that there is an object, can be the work of the one whose answer was lost.
        const own = before && (error.reason === "NotFound" || error.reason === "Conflict")
        if (!unknown && !own) return Effect.fail(mapError(error))
        // The same bytes can be there from before, or by another: they are ours where the upload is gone.
        const completed = Effect.flatMap(pending, (is) =>
          is === "no" ? Effect.map(there, (done) => (done ? "done" : "unknown")) : Effect.succeed(is)
        )
        return Effect.flatMap(completed, (is): Effect.Effect<ObjectStore.StoredObject, StoreError> => {
          if (is === "done") return Effect.succeed({ key, size, etag: expected ?? "" })
          if (unknown && left > 0) return attempt(left - 1, true)
          if (error.reason === "Conflict" && is === "yes") return Effect.fail(mapError(error))
          return Effect.fail(
            new ObjectStore.ObjectStoreError({
              reason: error.reason === "Timeout" ? "Timeout" : "Unavailable",
              method,
              key,
              description:
                "no answer came to the completion: whether the object is written is not known, see with head",
              cause: error
            })
          )
        })
      })
    return attempt(options.retries, false)
  }

  return Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(begun(restore), (id) =>
      makeParts({ id, send: send(id), mapError }).pipe(
        Effect.flatMap(({ parts, size }) =>
          complete(
            id,
            [...parts].sort((a, b) => a.number - b.number),
            size
          )
        ),
        restore,
        Effect.onExit((exit) => (Exit.isSuccess(exit) ? Effect.void : uploads.undo(abort(id))))
      )
    )
  )
}

const unexpected = (method: string, key: string, description: string): StoreError =>
  new ObjectStore.ObjectStoreError({ reason: "Unknown", method, key, description })

export const digestOf = (algorithm: ObjectStore.Checksum["algorithm"], bytes: Uint8Array): string => {
  const follower = ObjectStore.checksum(algorithm)
  follower.update(bytes)
  return follower.digest()
}

export const unquoted = (etag: string): string => etag.replace(/^W\//, "").replace(/^"|"$/g, "")

/** What S3 makes the etag of an object of parts of: known where those of the parts are MD5s. */
const etagOf = (parts: ReadonlyArray<Part>): string | undefined => {
  const hash = createHash("md5")
  for (const part of parts) {
    const etag = unquoted(part.etag)
    if (!/^[0-9a-f]{32}$/.test(etag)) return undefined
    hash.update(etag, "hex")
  }
  return `${hash.digest("hex")}-${parts.length}`
}

/** The most parts that an upload has. */
const maxParts = 10_000
/** The most bytes that a part has. */
const maxPart = 5 * 1_024 ** 3

/** The size of the parts of an object of this size. */
export const partSizeFor = (partSize: number, size: number): number =>
  Math.min(maxPart, Math.max(partSize, Math.ceil(size / maxParts)))

/** The parts of bytes that are in memory: nothing is copied. */
export const partsOfBytes =
  (bytes: Uint8Array, partSize: number, concurrency: number): Parts<never> =>
  ({ send }) =>
    Effect.map(
      Effect.forEach(
        Array.from({ length: Math.ceil(bytes.length / partSize) }, (_, i) => i),
        (i) => send(i + 1, bytes.subarray(i * partSize, (i + 1) * partSize)),
        { concurrency }
      ),
      (parts) => ({ parts, size: bytes.length })
    )

/**
 * The parts of a stream. A part is filled in a buffer of its own and sent while the next is filled; there are as many
 * buffers as parts on their way, and one. Of a stream whose length nobody knows the parts grow, so that the number of
 * parts never ends it: after each 2,000 to twice the size.
 */
export const partsOfStream =
  <E>(stream: Stream.Stream<Uint8Array, E>, partSize: number, concurrency: number, grows: boolean): Parts<E> =>
  ({ send }) =>
    Effect.scoped(
      Effect.gen(function* () {
        const permits = yield* Effect.makeSemaphore(concurrency)
        const fibers = yield* FiberSet.make<void, StoreError>()
        const failed = yield* Deferred.make<never, StoreError>()
        const parts: Array<Part> = []
        // Buffers that were sent and acknowledged are filled again.
        let free: Array<Buffer> = []
        let buffer: Buffer | undefined
        let filled = 0
        let size = 0
        let next = 1

        const sizeOf = (number: number) => (grows ? partSize * 2 ** Math.floor((number - 1) / 2_000) : partSize)

        const flush = Effect.suspend(() => {
          if (buffer === undefined || filled === 0) return Effect.void
          const full = buffer
          const bytes = full.subarray(0, filled)
          const number = next++
          buffer = undefined
          filled = 0
          return Effect.zipRight(
            permits.take(1),
            FiberSet.run(
              fibers,
              send(number, bytes).pipe(
                Effect.tap((part) => {
                  parts.push(part)
                  free.push(full)
                }),
                Effect.asVoid,
                Effect.tapErrorCause((cause) => Deferred.failCause(failed, cause)),
                Effect.ensuring(permits.release(1))
              )
            )
          )
        })

        const fill = (bytes: Uint8Array): Effect.Effect<void> =>
          Effect.suspend(() => {
            const wanted = sizeOf(next)
            if (buffer === undefined) {
              free = free.filter((one) => one.length === wanted)
              buffer = free.pop() ?? Buffer.allocUnsafeSlow(wanted)
            }
            const taken = Math.min(bytes.length, buffer.length - filled)
            buffer.set(taken === bytes.length ? bytes : bytes.subarray(0, taken), filled)
            filled += taken
            size += taken
            if (filled < buffer.length) return Effect.void
            return taken === bytes.length ? Effect.asVoid(flush) : Effect.zipRight(flush, fill(bytes.subarray(taken)))
          })

        const fed = Effect.zipRight(
          Stream.runForEachChunk(stream, (chunk) => Effect.forEach(chunk, fill, { discard: true })),
          flush
        )
        yield* Effect.raceFirst(Effect.zipRight(fed, FiberSet.awaitEmpty(fibers)), Deferred.await(failed))
        // The last of them can fail as the set gets empty.
        const late = yield* Deferred.poll(failed)
        if (late._tag === "Some") yield* late.value
        return { parts, size }
      })
    )
