/** The port `ObjectStore` in a folder of a file system. */
import * as Crypto from "node:crypto"
import * as Fs from "node:fs/promises"
import * as Path from "node:path"
import { ConnectionError } from "@underlay/core/connection/Connection"
import type * as ConnectionLifecycle from "@underlay/core/connection/ConnectionLifecycle"
import * as ObjectStore from "@underlay/core/storage/ObjectStore"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { storeError } from "../s3/errors.ts"
import * as File from "./file.ts"
import * as List from "./list.ts"
import * as Lock from "./lock.ts"
import * as Paths from "./paths.ts"
import { here } from "./processes.ts"

/** The folders of a store. */
export interface Folders {
  readonly objects: string
  /** What is being written. On the same file system, so that a rename moves it. */
  readonly temporary: string
  readonly locks: string
}

export const foldersOf = (root: string): Folders => ({
  objects: Path.join(root, "objects"),
  temporary: Path.join(root, "temporary"),
  locks: Path.join(root, "locks")
})

export interface Options {
  readonly lifecycle: ConnectionLifecycle.Lifecycle<Folders>
  readonly durable: boolean
  readonly shared: boolean
}

type StoreError = ObjectStore.ObjectStoreError
type Handle = Fs.FileHandle

const piece = 262_144

const codeOf = (error: unknown): string =>
  error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : ""

const reasons: Readonly<Record<string, readonly [ObjectStore.ObjectStoreErrorReason, string]>> = {
  EACCES: ["PermissionDenied", "the folder does not permit it to this user"],
  EPERM: ["PermissionDenied", "the folder does not permit it to this user"],
  EROFS: ["PermissionDenied", "the file system is read-only"],
  ENOSPC: ["Unavailable", "the file system is full"],
  EDQUOT: ["Unavailable", "the user's share of the file system is full"],
  EMFILE: ["Unavailable", "this process has too many files open"],
  ENFILE: ["Unavailable", "this machine has too many files open"],
  ENAMETOOLONG: ["InvalidKey", "the path becomes too long: choose a folder with a shorter one"],
  EFBIG: ["TooLarge", "the object is larger than the file system takes"]
}

/** Node's error without the path, which has the key in it. */
const bare = (cause: unknown): unknown => {
  if (!(cause instanceof Error) || !("path" in cause)) return cause
  const syscall = "syscall" in cause && typeof cause.syscall === "string" ? cause.syscall : "the file system"
  return Object.assign(new Error(`${codeOf(cause)}: ${syscall}`), { code: codeOf(cause), syscall })
}

/** What of Node went wrong, for a method. */
export const failed = (method: string, key: string | undefined, cause: unknown): StoreError => {
  const code = codeOf(cause)
  const [reason, description] = reasons[code] ?? [
    "Unavailable",
    "the file system failed: look up the code, which says how"
  ]
  return new ObjectStore.ObjectStoreError({
    reason,
    method,
    description,
    ...(key === undefined ? {} : { key }),
    ...(code === "" ? {} : { code }),
    cause: bare(cause)
  })
}

/** Removes what processes that are gone were writing, and what nobody can be writing any more. */
export const sweep = async (folders: Folders): Promise<void> => {
  for (const name of await Fs.readdir(folders.temporary)) {
    const path = Path.join(folders.temporary, name)
    const [host, pid] = name.split(".")
    let gone = false
    if (host === here() && pid !== undefined && /^\d+$/.test(pid)) {
      try {
        process.kill(Number(pid), 0)
      } catch (error) {
        gone = codeOf(error) === "ESRCH"
      }
    }
    try {
      // the times of files are the machine's, whatever clock the program has
      if (gone || Date.now() - (await Fs.stat(path)).mtimeMs > 86_400_000) await Fs.rm(path, { force: true })
    } catch {
      // gone meanwhile
    }
  }
}

export const make = (options: Options): Context.Tag.Service<ObjectStore.ObjectStore> => {
  const { durable, lifecycle, shared } = options
  const capabilities: ObjectStore.Capabilities = {
    persistent: true,
    conditionalPut: true,
    presign: false,
    checksums: ["sha256"]
  }

  const attempt = <A>(method: string, key: string | undefined, run: () => Promise<A>): Effect.Effect<A, StoreError> =>
    Effect.tryPromise({ try: run, catch: (cause) => failed(method, key, cause) })

  const failures: ReadonlySet<ObjectStore.ObjectStoreErrorReason> = new Set([
    "Unavailable",
    "PermissionDenied",
    "TooLarge",
    "ChecksumMismatch",
    "Unknown"
  ])
  const isFailure = (error: unknown): error is StoreError =>
    error instanceof ObjectStore.ObjectStoreError && failures.has(error.reason)

  /** What the file system failed as an error of the connection, to be watched and tried again as one. */
  const asConnectionError = (method: string, error: StoreError): ConnectionError =>
    new ConnectionError({
      reason: error.reason === "Unavailable" || error.reason === "PermissionDenied" ? error.reason : "Unknown",
      kind: lifecycle.connection.kind,
      connection: lifecycle.connection.name,
      method,
      description: error.description,
      ...(error.code === undefined ? {} : { code: error.code }),
      cause: error
    })

  /** One operation of the connection. Its own errors and the user's come through as they are. */
  const call = <A, E>(
    method: string,
    key: string | undefined,
    idempotent: boolean,
    run: (folders: Folders) => Effect.Effect<A, E | StoreError>
  ): Effect.Effect<A, E | StoreError> =>
    lifecycle
      .call(
        method,
        (folders) =>
          Effect.flatMap(Effect.either(run(folders)), (result) =>
            Either.isLeft(result) && isFailure(result.left)
              ? Effect.fail(asConnectionError(method, result.left))
              : Effect.succeed(result)
          ),
        { idempotent, timeout: false }
      )
      .pipe(
        Effect.mapError((error: ConnectionError) =>
          error.original instanceof ObjectStore.ObjectStoreError ? error.original : storeError(method, key, error)
        ),
        Effect.flatMap((result) => (Either.isRight(result) ? Effect.succeed(result.right) : Effect.fail(result.left)))
      )

  const pathOf = (folders: Folders, key: string): string =>
    Path.join(folders.objects, ...Paths.namesOf(Paths.toBytes(key)))

  // ---- locks ---------------------------------------------------------------------------------------------------------

  interface Held {
    readonly semaphore: Effect.Semaphore
    users: number
  }
  const held = new Map<string, Held>()

  /** One writer a key: in this process in the order of asking, and of the processes one. It is for moments. */
  const locked = <A>(
    folders: Folders,
    method: string,
    key: string,
    run: (held: Effect.Effect<void, StoreError>) => Effect.Effect<A, StoreError>
  ): Effect.Effect<A, StoreError> =>
    Effect.suspend(() => {
      const mine: Held = held.get(key) ?? { semaphore: Effect.unsafeMakeSemaphore(1), users: 0 }
      held.set(key, mine)
      mine.users++
      const path = Path.join(folders.locks, Crypto.hash("sha256", key, "hex"))
      const timeout = (description: string) =>
        new ObjectStore.ObjectStoreError({ reason: "Timeout", method, key, description, code: "locked" })
      // Each try is awaited, so that none makes a lock that nobody knows of; who waits can be interrupted.
      const acquire = (until: number): Effect.Effect<number, StoreError> =>
        Effect.flatMap(
          attempt(method, key, () => Lock.tryAcquire(path)),
          (got) =>
            Effect.flatMap(Clock.currentTimeMillis, (now) =>
              got
                ? Effect.succeed(now)
                : now >= until
                  ? Effect.fail(timeout("another process holds the object's lock for longer than ten seconds"))
                  : // processes that wait for one lock must not knock in step; no seed is to make them
                    Effect.zipRight(Effect.interruptible(Effect.sleep(4 + Math.random() * 2)), acquire(until))
            )
        )
      const guarded = shared
        ? Effect.acquireUseRelease(
            Effect.flatMap(Clock.currentTimeMillis, (now) => acquire(now + 10_000)),
            (since) =>
              run(
                Effect.flatMap(Clock.currentTimeMillis, (now) =>
                  now - since < Lock.longest
                    ? Effect.void
                    : Effect.fail(
                        timeout("the file system took so long that the object's lock may be another's: try again")
                      )
                )
              ),
            () => Effect.promise(() => Lock.release(path).catch(() => {}))
          )
        : run(Effect.void)
      return Effect.ensuring(
        mine.semaphore.withPermits(1)(guarded),
        Effect.sync(() => {
          mine.users--
          if (mine.users === 0) held.delete(key)
        })
      )
    })

  // ---- read ----------------------------------------------------------------------------------------------------------

  const handleOf = (method: string, key: string, path: string): Effect.Effect<Handle, StoreError, Scope.Scope> =>
    Effect.acquireRelease(
      Effect.tryPromise({
        try: () => Fs.open(path, "r"),
        catch: (cause) =>
          codeOf(cause) === "ENOENT" || codeOf(cause) === "ENOTDIR"
            ? ObjectStore.notFound(method, key)
            : failed(method, key, cause)
      }),
      (handle) => Effect.promise(() => handle.close().catch(() => {}))
    )

  const infoOf = (method: string, key: string, handle: Handle): Effect.Effect<ObjectStore.ObjectInfo, StoreError> =>
    Effect.flatMap(
      attempt(method, key, () => File.readFooter(handle)),
      (info) =>
        info === undefined || info.key !== key
          ? Effect.fail(
              new ObjectStore.ObjectStoreError({
                reason: "Unknown",
                method,
                key,
                description: "the object's file is damaged: write it again, or delete it"
              })
            )
          : Effect.succeed(info)
    )

  interface Opened {
    readonly handle: Handle
    readonly info: ObjectStore.ObjectInfo
    readonly part: ObjectStore.Part
  }

  const opened = (
    folders: Folders,
    method: string,
    key: string,
    given: ObjectStore.GetOptions | undefined
  ): Effect.Effect<Opened, StoreError, Scope.Scope> =>
    Effect.flatMap(handleOf(method, key, pathOf(folders, key)), (handle) =>
      Effect.flatMap(infoOf(method, key, handle), (info) =>
        Effect.flatMap(ObjectStore.checkConditions(method, info, given), () =>
          Effect.map(ObjectStore.partOf(method, key, info.size, given?.range), (part) => ({ handle, info, part }))
        )
      )
    )

  const isWhole = ({ info, part }: Opened): boolean => part.length === info.size

  const damaged = (method: string, key: string) => ObjectStore.checksumMismatch(method, key, "sha256")

  const bytesOf = (method: string, key: string, object: Opened): Effect.Effect<Uint8Array, StoreError> =>
    Effect.flatMap(
      attempt(method, key, () => File.readAt(object.handle, object.part.offset, object.part.length)),
      (bytes) =>
        bytes.length !== object.part.length ||
        (isWhole(object) && Crypto.hash("sha256", bytes, "hex") !== object.info.etag)
          ? Effect.fail(damaged(method, key))
          : Effect.succeed(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length))
    )

  const streamOf = (method: string, key: string, object: Opened): Stream.Stream<Uint8Array, StoreError> =>
    Stream.suspend(() => {
      const { handle, part } = object
      const hash = isWhole(object) ? Crypto.createHash("sha256") : undefined
      let at = 0
      return Stream.repeatEffectChunkOption(
        Effect.suspend((): Effect.Effect<Chunk.Chunk<Uint8Array>, Option.Option<StoreError>> => {
          if (at >= part.length) {
            return hash === undefined || hash.digest("hex") === object.info.etag
              ? Effect.fail(Option.none())
              : Effect.fail(Option.some(damaged(method, key)))
          }
          const wanted = Math.min(piece, part.length - at)
          return attempt(method, key, () => File.readAt(handle, part.offset + at, wanted)).pipe(
            Effect.mapError(Option.some),
            Effect.flatMap((bytes) => {
              if (bytes.length !== wanted) return Effect.fail(Option.some(damaged(method, key)))
              at += bytes.length
              hash?.update(bytes)
              return Effect.succeed(Chunk.of<Uint8Array>(bytes))
            })
          )
        })
      )
    })

  /** Opened within the scope, as one operation; its bytes are read as long as the connection is there. */
  const open = (
    method: string,
    key: string,
    given: ObjectStore.GetOptions | undefined
  ): Effect.Effect<ObjectStore.OpenObject, StoreError, Scope.Scope> =>
    Effect.flatMap(ObjectStore.checkGet(method, key, given), () =>
      Effect.flatMap(Effect.scope, (scope) =>
        Effect.map(
          call(method, key, true, (folders) =>
            Effect.provideService(opened(folders, method, key, given), Scope.Scope, scope)
          ),
          (object) => ({ info: object.info, part: object.part, body: streamOf(method, key, object) })
        )
      )
    )

  const head = (method: string, key: string, conditions: ObjectStore.Conditions | undefined) =>
    Effect.flatMap(ObjectStore.checkGet(method, key, conditions), () =>
      call(method, key, true, (folders) =>
        Effect.scoped(Effect.map(opened(folders, method, key, { ...conditions, range: undefined }), ({ info }) => info))
      )
    )

  // ---- write ---------------------------------------------------------------------------------------------------------

  /** A file of its own, which is removed unless it was moved. */
  const temporary = (
    folders: Folders,
    method: string,
    key: string
  ): Effect.Effect<{ readonly path: string; readonly handle: Handle }, StoreError, Scope.Scope> =>
    Effect.acquireRelease(
      attempt(method, key, async () => {
        const path = Path.join(folders.temporary, `${here()}.${process.pid}.${Crypto.randomUUID()}`)
        return { path, handle: await Fs.open(path, "wx") }
      }),
      ({ handle, path }) =>
        Effect.promise(async () => {
          await handle.close().catch(() => {})
          await Fs.rm(path, { force: true }).catch(() => {})
        })
    )

  const syncFolder = async (folder: string): Promise<void> => {
    try {
      const handle = await Fs.open(folder, "r")
      try {
        await handle.sync()
      } finally {
        await handle.close()
      }
    } catch (error) {
      // Not every system lets a folder be opened.
      if (!["EISDIR", "EPERM", "EACCES", "EINVAL", "ENOTSUP"].includes(codeOf(error))) throw error
    }
  }

  /** Puts the file in its place: with `link` only where there is none. */
  const place = async (folders: Folders, temporary: string, path: string, create: boolean): Promise<boolean> => {
    const folder = Path.dirname(path)
    // Who deletes removes folders that are empty, also between the two steps.
    for (let left = 100; ; left--) {
      try {
        if (create) await Fs.link(temporary, path)
        else await Fs.rename(temporary, path)
        break
      } catch (error) {
        if (codeOf(error) === "EEXIST" && create) return false
        if (codeOf(error) !== "ENOENT" || left === 0) throw error
        const made = await Fs.mkdir(folder, { recursive: true })
        if (durable && made !== undefined) {
          for (let up = folder; up.length >= folders.objects.length; up = Path.dirname(up)) {
            await syncFolder(Path.dirname(up)).catch(() => {})
          }
        }
      }
    }
    if (durable) {
      await syncFolder(folder).catch((error: unknown) => {
        // Deleted already, with what was put there.
        if (codeOf(error) !== "ENOENT") throw error
      })
    }
    return true
  }

  const etagNow = (method: string, key: string, path: string): Effect.Effect<string | undefined, StoreError> =>
    Effect.scoped(
      Effect.flatMap(handleOf(method, key, path), (handle) =>
        Effect.map(infoOf(method, key, handle), ({ etag }) => etag)
      )
    ).pipe(
      Effect.catchIf(
        (error) => error.reason === "NotFound",
        () => Effect.succeed(undefined)
      )
    )

  /** Writes the stream beside, and then moves it to its place. */
  const write = <E>(
    folders: Folders,
    method: string,
    key: string,
    bytes: Stream.Stream<Uint8Array, E> | Uint8Array,
    given: ObjectStore.PutOptions
  ): Effect.Effect<ObjectStore.StoredObject, E | StoreError> =>
    Effect.scoped(
      Effect.gen(function* () {
        const path = pathOf(folders, key)
        const conflict = ObjectStore.conflict(method, key, given)
        // Who cannot win need not write.
        if (given.ifNoneMatch !== undefined || given.ifMatch !== undefined) {
          const etag = yield* etagNow(method, key, path)
          if (given.ifNoneMatch !== undefined ? etag !== undefined : etag !== given.ifMatch) {
            return yield* Effect.fail(conflict)
          }
        }
        const file = yield* temporary(folders, method, key)
        const hash = Crypto.createHash("sha256")
        let size = 0
        const append = (bytes: Uint8Array) => {
          size += bytes.length
          hash.update(bytes)
          return attempt(method, key, () => File.writeAll(file.handle, bytes))
        }
        if (bytes instanceof Uint8Array) yield* append(bytes)
        else yield* Stream.runForEachChunk(bytes, (chunk) => Effect.forEach(chunk, append, { discard: true }))
        const stored = { key, size, etag: hash.digest("hex") }
        const now = yield* Clock.currentTimeMillis
        yield* attempt(method, key, async () => {
          await File.writeAll(file.handle, File.footerOf(stored, given, now))
          if (durable) await file.handle.datasync()
        })
        const put = (create: boolean) => attempt(method, key, () => place(folders, file.path, path, create))
        if (given.ifNoneMatch !== undefined) {
          // A link is made once, whoever tries.
          return (yield* Effect.uninterruptible(put(true))) ? stored : yield* Effect.fail(conflict)
        }
        const check =
          given.ifMatch === undefined
            ? Effect.void
            : Effect.flatMap(etagNow(method, key, path), (etag) =>
                etag === given.ifMatch ? Effect.void : Effect.fail(conflict)
              )
        yield* locked(folders, method, key, (held) =>
          Effect.uninterruptible(Effect.zipRight(Effect.zipRight(check, held), put(false)))
        )
        return stored
      })
    )

  const put = <E = never>(
    key: string,
    body: ObjectStore.Body<E>,
    given: ObjectStore.PutOptions = {}
  ): Effect.Effect<ObjectStore.StoredObject, E | StoreError> =>
    Effect.flatMap(ObjectStore.checkPut(key, given, capabilities), () =>
      call<ObjectStore.StoredObject, E>("put", key, false, (folders) => {
        if (typeof body !== "string" && !(body instanceof Uint8Array)) {
          return write<E | StoreError>(folders, "put", key, ObjectStore.verified(key, body, given), given)
        }
        const bytes = ObjectStore.bytesOf(body)
        if (given.size !== undefined && given.size !== bytes.length) {
          return Effect.fail(ObjectStore.sizeMismatch(key, given.size))
        }
        if (given.checksum !== undefined) {
          const follower = ObjectStore.checksum(given.checksum.algorithm)
          follower.update(bytes)
          if (follower.digest() !== given.checksum.value) {
            return Effect.fail(ObjectStore.checksumMismatch("put", key, given.checksum.algorithm))
          }
        }
        return write<never>(folders, "put", key, bytes, given)
      })
    )

  const removeNow = (folders: Folders, method: string, key: string): Effect.Effect<void, StoreError> =>
    Effect.suspend(() => {
      const path = pathOf(folders, key)
      return locked(folders, method, key, () =>
        attempt(method, key, async () => {
          try {
            await Fs.unlink(path)
          } catch (error) {
            if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return
            throw error
          }
          if (durable) await syncFolder(Path.dirname(path)).catch(() => {})
          // Folders go with what was in them.
          for (let folder = Path.dirname(path); folder.length > folders.objects.length; folder = Path.dirname(folder)) {
            try {
              await Fs.rmdir(folder)
            } catch {
              return
            }
          }
        }).pipe(Effect.uninterruptible)
      )
    })

  const remove = (method: string, key: string): Effect.Effect<void, StoreError> =>
    Effect.flatMap(ObjectStore.checkKey(method, key), () =>
      call<void, never>(method, key, true, (folders) => removeNow(folders, method, key))
    )

  // ---- list ----------------------------------------------------------------------------------------------------------

  const entryOf = async (found: List.Found): Promise<ObjectStore.ListEntry | undefined> => {
    if (found._tag === "Prefix") return { _tag: "Prefix", prefix: Paths.fromBytes(found.bytes) }
    let handle: Handle
    try {
      handle = await Fs.open(found.path, "r")
    } catch (error) {
      // Deleted since its name was read.
      if (codeOf(error) === "ENOENT") return undefined
      throw error
    }
    try {
      const info = await File.readFooter(handle)
      // A file that is none of ours is no object.
      return info === undefined
        ? undefined
        : { _tag: "Object", key: info.key, size: info.size, etag: info.etag, lastModified: info.lastModified }
    } finally {
      await handle.close()
    }
  }

  const list = (given: ObjectStore.ListOptions = {}): Stream.Stream<ObjectStore.ListEntry, StoreError> =>
    Stream.unwrapScoped(
      Effect.gen(function* () {
        const pageSize = yield* ObjectStore.checkList(given)
        const folders = yield* call<Folders, never>("list", undefined, true, Effect.succeed)
        const { delimiter } = given
        const prefix = given.prefix ?? ""
        // The generator is this list's own, and is closed with it.
        const walk = yield* Effect.acquireRelease(
          Effect.sync(() =>
            List.walk({
              root: folders.objects,
              prefix: Paths.toBytes(prefix),
              after: given.startAfter === undefined ? undefined : Paths.toBytes(given.startAfter),
              folders: delimiter === "/"
            })
          ),
          (walk) => Effect.promise(() => walk.return().catch(() => {}))
        )
        let group: string | undefined
        const page = async (): Promise<readonly [Array<ObjectStore.ListEntry>, boolean]> => {
          const found: Array<List.Found> = []
          let ended = false
          while (found.length < pageSize) {
            const next = await walk.next()
            if (next.done === true) {
              ended = true
              break
            }
            const { value } = next
            if (delimiter !== undefined && delimiter !== "/" && value._tag === "Object") {
              const under = ObjectStore.commonPrefix(Paths.fromBytes(value.bytes), prefix, delimiter)
              if (under !== undefined) {
                if (under !== group) found.push({ _tag: "Prefix", bytes: Paths.toBytes(under) })
                group = under
                continue
              }
            }
            found.push(value)
          }
          const entries: Array<ObjectStore.ListEntry> = []
          for (let at = 0; at < found.length; at += 16) {
            for (const entry of await Promise.all(found.slice(at, at + 16).map(entryOf))) {
              if (entry !== undefined) entries.push(entry)
            }
          }
          return [entries, ended] as const
        }
        return Stream.paginateChunkEffect(undefined, () =>
          Effect.map(
            attempt("list", undefined, page),
            ([entries, ended]) =>
              [Chunk.unsafeFromArray(entries), ended ? Option.none() : Option.some(undefined)] as const
          )
        )
      })
    )

  const unsupported = (method: string, key: string): Effect.Effect<never, StoreError> =>
    Effect.fail(
      new ObjectStore.ObjectStoreError({
        reason: "Unsupported",
        method,
        key,
        description: "there is no URL to a file of this store: serve it by stream"
      })
    )

  return {
    capabilities,
    put,
    get: (key, given) =>
      Effect.flatMap(ObjectStore.checkGet("get", key, given), () =>
        call<ObjectStore.ObjectData, never>("get", key, true, (folders) =>
          Effect.scoped(
            Effect.flatMap(opened(folders, "get", key, given), (object) =>
              Effect.map(bytesOf("get", key, object), (bytes) => ({ info: object.info, part: object.part, bytes }))
            )
          )
        )
      ),
    open: (key, given) => open("open", key, given),
    stream: (key, given) => Stream.unwrapScoped(Effect.map(open("stream", key, given), ({ body }) => body)),
    head: (key, conditions) => head("head", key, conditions),
    exists: (key) =>
      Effect.as(head("exists", key, undefined), true).pipe(
        Effect.catchIf(
          (error) => error.reason === "NotFound",
          () => Effect.succeed(false)
        )
      ),
    list,
    delete: (key) => remove("delete", key),
    deleteMany: (keys) =>
      call<ObjectStore.Deleted, never>("deleteMany", undefined, true, (folders) =>
        Effect.map(
          Effect.partition(
            [...new Set(keys)],
            (key) =>
              ObjectStore.checkKey("deleteMany", key).pipe(
                Effect.zipRight(removeNow(folders, "deleteMany", key)),
                Effect.mapBoth({ onFailure: (error) => ({ key, error }), onSuccess: () => key })
              ),
            { concurrency: 8 }
          ),
          ([failed, deleted]) => ({ deleted, failed })
        )
      ),
    copy: (from, to, given = {}) =>
      Effect.gen(function* () {
        yield* ObjectStore.checkKey("copy", from)
        yield* ObjectStore.checkKey("copy", to)
        if (given.replace !== undefined) yield* ObjectStore.checkAttributes("copy", to, given.replace)
        return yield* call<ObjectStore.StoredObject, never>("copy", from, true, (folders) =>
          Effect.scoped(
            Effect.flatMap(opened(folders, "copy", from, { ifMatch: given.ifSourceMatch }), (object) =>
              write(folders, "copy", to, streamOf("copy", from, object), given.replace ?? object.info)
            )
          )
        )
      }),
    presignGet: (key) => unsupported("presignGet", key),
    presignPut: (key) => unsupported("presignPut", key)
  }
}
