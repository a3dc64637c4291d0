import * as ChildProcess from "node:child_process"
import { createHash } from "node:crypto"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { assert, describe, it, layer } from "@effect/vitest"
import { ObjectStore } from "@underlay/core"
import { ConnectionSuite, ObjectStoreSuite, Recording, Suite } from "@underlay/core/testing"
import { Cause, Chunk, Clock, Effect, Fiber, Layer, Option, Schedule, Stream, TestClock, TestServices } from "effect"
import * as fc from "fast-check"
import { failed } from "../../src/internal/object/fileStore.ts"
import * as List from "../../src/internal/object/list.ts"
import * as Lock from "../../src/internal/object/lock.ts"
import * as Paths from "../../src/internal/object/paths.ts"
import * as Processes from "../../src/internal/object/processes.ts"
import * as FileSystem from "../../src/object/FileSystem.ts"

const folder = Effect.acquireRelease(
  Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "underlay-objects-"))),
  (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
)

const connect = (more: Partial<FileSystem.FileSystemSettings> = {}) =>
  Effect.gen(function* () {
    const directory = more.directory ?? (yield* folder)
    const connection = yield* FileSystem.make({ directory, durable: false, ...more })
    return { ...connection, directory }
  })

const files = (directory: string): Array<string> =>
  Fs.readdirSync(directory, { recursive: true, withFileTypes: true }).flatMap((entry) =>
    entry.isFile() ? [Path.relative(directory, Path.join(entry.parentPath, entry.name))] : []
  )

const keysOf = (store: typeof ObjectStore.ObjectStore.Service, options?: ObjectStore.ListOptions) =>
  Effect.map(Stream.runCollect(store.list(options)), (entries) =>
    Chunk.toReadonlyArray(entries).map((one) => (one._tag === "Object" ? one.key : one.prefix))
  )

/** How many files of a folder this process has open. */
const openFiles = (directory: string): number =>
  Fs.readdirSync("/proc/self/fd").filter((name) => {
    try {
      return Fs.readlinkSync(`/proc/self/fd/${name}`).startsWith(directory)
    } catch {
      return false
    }
  }).length

const everything = ["conditionalPut", "checksums", "anyKey", "conditionalGet", "ordered"] as const

describe("FileSystem", () => {
  const store = Layer.unwrapScoped(Effect.map(folder, (directory) => FileSystem.layer({ directory })))
  layer(store, { excludeTestServices: true })("the port", (it) => {
    for (const one of Suite.applicable(ObjectStoreSuite.suite, everything)) {
      it.effect(one.name, () => one.run, 60_000)
    }
  })

  const suite = ConnectionSuite.suite<typeof ObjectStore.ObjectStore.Service, unknown, never>({
    make: connect(),
    ask: (store) => store.exists("no such key"),
    expected: false
  })
  for (const one of suite.cases) it.live(`connection: ${one.name}`, () => one.run)

  it("paths keep keys apart, whatever the case, and in the order of their bytes", () => {
    const key = fc
      .array(
        fc.oneof(fc.constantFrom("a", "A", "/", ".", "..", "con", "é", "😀", "%", "_", "x".repeat(70)), fc.string()),
        {
          minLength: 1,
          maxLength: 8
        }
      )
      .map((parts) => parts.join("").replaceAll("\u0000", ""))
      .filter((text) => text !== "" && !/[\ud800-\udfff]/u.test(text))
    fc.assert(
      fc.property(key, key, (a, b) => {
        const names = Paths.namesOf(Paths.toBytes(a))
        for (const name of names) {
          assert.match(name, /^[old]_[a-z0-9_%.-]*$/)
          assert.isTrue(name.length <= 200 && !name.endsWith("."))
        }
        const back = names.map((name) => Paths.entryOf(name)?.adds ?? "").join("")
        assert.strictEqual(Paths.fromBytes(back), a)
        const same = Path.join(...names).toLowerCase() === Path.join(...Paths.namesOf(Paths.toBytes(b))).toLowerCase()
        assert.strictEqual(same, a === b)
      }),
      { numRuns: 500 }
    )
  })

  it.scopedLive(
    "lists random keys in order, by any prefix, delimiter and start, as the store in memory does",
    () =>
      Effect.gen(function* () {
        const { store } = yield* connect()
        const memory = yield* ObjectStore.makeMemory
        const letter = fc.constantFrom("a", "b", "/", "!", "0", "é", "x".repeat(64), "-")
        const name = fc.array(letter, { minLength: 1, maxLength: 6 }).map((parts) => parts.join(""))
        const keys = [...new Set(fc.sample(name, { numRuns: 150, seed: 7 }))]
        for (const key of keys) {
          yield* store.put(key, "x")
          yield* memory.put(key, "x")
        }
        const text = fc.option(
          fc.array(letter, { maxLength: 3 }).map((parts) => parts.join("")),
          { nil: undefined }
        )
        const options = fc.sample(
          fc.record({
            prefix: text,
            startAfter: text,
            delimiter: fc.constantFrom(undefined, "/", "a", "b/"),
            pageSize: fc.integer({ min: 1, max: 50 })
          }),
          { numRuns: 150, seed: 7 }
        )
        for (const one of options) {
          assert.deepStrictEqual(yield* keysOf(store, one), yield* keysOf(memory, one), JSON.stringify(one))
        }
        for (const key of keys) yield* store.delete(key)
        const { directory } = yield* connect()
        assert.deepStrictEqual(files(directory), [])
      }),
    60_000
  )

  it.scopedLive("a folder of more names than are kept at once is listed in order, each name once", () =>
    Effect.gen(function* () {
      const root = yield* folder
      const names = Array.from({ length: 20_500 }, (_, i) => String(i))
      for (const name of names) Fs.writeFileSync(Path.join(root, `o_${name}`), "")
      const found = yield* Effect.promise(async () => {
        const keys: Array<string> = []
        for await (const one of List.walk({ root, prefix: "", after: undefined, folders: false })) keys.push(one.bytes)
        return keys
      })
      assert.deepStrictEqual(found, names.sort())
    })
  )

  it("each code of the system has its reason", () => {
    for (const [code, reason] of [
      ["EACCES", "PermissionDenied"],
      ["EPERM", "PermissionDenied"],
      ["EROFS", "PermissionDenied"],
      ["ENOSPC", "Unavailable"],
      ["EDQUOT", "Unavailable"],
      ["EMFILE", "Unavailable"],
      ["ENFILE", "Unavailable"],
      ["EFBIG", "TooLarge"],
      ["ENAMETOOLONG", "InvalidKey"],
      ["EIO", "Unavailable"]
    ]) {
      const error = failed("put", "a", Object.assign(new Error("no"), { code }))
      assert.deepStrictEqual([error.reason, error.code], [reason, code])
    }
  })

  it.scopedLive("nothing is outside of the folder, and nothing half written is left in it", () =>
    Effect.gen(function* () {
      const { directory, store } = yield* connect()
      for (const key of ["../../escape", "/etc/passwd", "..", "a/../../b", "C:\\x", "~/x"]) yield* store.put(key, "x")
      assert.strictEqual(files(directory).length, 6)
      assert.isFalse(Fs.existsSync(Path.join(directory, "../escape")))
      const big = new Uint8Array(100_000)
      const stream = Stream.concat(Stream.make(big, big), Stream.never)
      const fiber = yield* Effect.fork(store.put("half", stream))
      yield* Effect.repeat(
        Effect.sync(() => files(directory).length),
        { until: (count) => count === 7, schedule: Schedule.spaced("5 millis") }
      )
      assert.notInclude(yield* keysOf(store), "half")
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(files(directory).length, 6)
      yield* Effect.flip(store.put("half", Stream.concat(Stream.make(big), Stream.fail("mine" as const))))
      assert.strictEqual(files(directory).length, 6)
      yield* store.deleteMany(yield* keysOf(store))
      assert.deepStrictEqual(Fs.readdirSync(Path.join(directory, "objects")), [])
    })
  )

  it.scopedLive("what a killed process left half written is removed, what others write is not", () =>
    Effect.gen(function* () {
      const { directory } = yield* connect()
      const gone = ChildProcess.spawnSync(process.execPath, ["-e", ""]).pid
      const host = Processes.here()
      // A container with the same host name counts its processes for itself.
      const container = Processes.placeOf(Os.hostname(), Processes.boot(), "pid:[1]")
      const temporary = Path.join(directory, "temporary")
      Fs.writeFileSync(Path.join(temporary, `${host}.${gone}.x`), "x")
      Fs.writeFileSync(Path.join(temporary, `${host}.${process.pid}.x`), "x")
      Fs.writeFileSync(Path.join(temporary, `elsewhere.1.x`), "x")
      Fs.writeFileSync(Path.join(temporary, `${container}.${gone}.x`), "x")
      // Of others it is known when it is older than a day.
      const hours = (name: string, n: number) =>
        Fs.utimesSync(Path.join(temporary, name), Date.now() / 1_000 - n * 3_600, Date.now() / 1_000 - n * 3_600)
      Fs.writeFileSync(Path.join(temporary, `elsewhere.2.x`), "x")
      hours("elsewhere.1.x", 23)
      hours("elsewhere.2.x", 25)
      yield* connect({ directory })
      assert.deepStrictEqual(
        Fs.readdirSync(temporary).sort(),
        [`elsewhere.1.x`, `${host}.${process.pid}.x`, `${container}.${gone}.x`].sort()
      )
    })
  )

  it.scopedLive(
    "a lock of a killed process is taken over; of many who wait each gets it once",
    () =>
      Effect.gen(function* () {
        const { directory, store } = yield* connect()
        const { store: other } = yield* connect({ directory })
        yield* store.put("a", "0")
        const hash = ChildProcess.execFileSync("sha256sum", { input: "a" }).toString().slice(0, 64)
        const gone = ChildProcess.spawnSync(process.execPath, ["-e", ""]).pid
        Fs.writeFileSync(Path.join(directory, "locks", hash), `${gone} ${Processes.here()}`)
        // Each adds one to what is there, under the condition that nobody else has: none is lost.
        const add = (store: typeof ObjectStore.ObjectStore.Service) =>
          Effect.gen(function* () {
            const { bytes, info } = yield* store.get("a")
            yield* store.put("a", String(Number(new TextDecoder().decode(bytes)) + 1), { ifMatch: info.etag })
          }).pipe(Effect.retry({ while: (error) => error.reason === "Conflict" }))
        yield* Effect.all(
          Array.from({ length: 16 }, (_, i) => add(i % 2 === 0 ? store : other)),
          { concurrency: "unbounded", discard: true }
        )
        assert.strictEqual(new TextDecoder().decode((yield* store.get("a")).bytes), "16")
        assert.deepStrictEqual(Fs.readdirSync(Path.join(directory, "locks")), [])
      }),
    60_000
  )

  it.scopedLive("a lock is not taken from who lives, however long, and nobody gives back another's", () =>
    Effect.gen(function* () {
      const path = Path.join(yield* folder, "lock")
      const old = () => Fs.utimesSync(path, new Date(Date.now() - 120_000), new Date(Date.now() - 120_000))
      assert.isTrue(yield* Effect.promise(() => Lock.tryAcquire(path)))
      old()
      assert.isFalse(yield* Effect.promise(() => Lock.tryAcquire(path)))
      // The number of a process that is gone, in use again.
      const mine = Fs.readFileSync(path, "utf8").split(" ")
      Fs.writeFileSync(path, [mine[0], mine[1], "1"].join(" "))
      assert.isTrue(yield* Effect.promise(() => Lock.tryAcquire(path)))
      // Of another machine only its age is known, and of another container, also if it has this one's host name.
      const gone = ChildProcess.spawnSync(process.execPath, ["-e", ""]).pid
      for (const [boot, table] of [
        [Processes.boot(), "pid:[1]"],
        ["another", Processes.table()]
      ] as const) {
        Fs.writeFileSync(path, `${gone} ${Processes.placeOf(Os.hostname(), boot, table)}`)
        assert.isFalse(yield* Effect.promise(() => Lock.tryAcquire(path)))
      }
      assert.notStrictEqual(Processes.table(), "")
      Fs.writeFileSync(path, "1 elsewhere")
      assert.isFalse(yield* Effect.promise(() => Lock.tryAcquire(path)))
      yield* Effect.promise(() => Lock.release(path))
      assert.isTrue(Fs.existsSync(path))
      const aged = (seconds: number) =>
        Fs.utimesSync(path, new Date(Date.now() - seconds * 1_000), new Date(Date.now() - seconds * 1_000))
      aged(25)
      assert.isFalse(yield* Effect.promise(() => Lock.tryAcquire(path)))
      aged(31)
      assert.isTrue(yield* Effect.promise(() => Lock.tryAcquire(path)))
      yield* Effect.promise(() => Lock.release(path))
      assert.isFalse(Fs.existsSync(path))
    })
  )

  it.scoped(
    "who waits for a lock for longer than ten seconds fails with Timeout, and writes when it is given back",
    () =>
      Effect.gen(function* () {
        const { directory, store } = yield* connect()
        const path = Path.join(directory, "locks", createHash("sha256").update("a").digest("hex"))
        assert.isTrue(yield* Effect.promise(() => Lock.tryAcquire(path)))
        for (const write of [Effect.asVoid(store.put("a", "x")), store.delete("a")]) {
          const writing = yield* Effect.fork(Effect.exit(write))
          const poll = TestServices.provideLive(Effect.sleep("2 millis"))
          let waited = 0
          while (Option.isNone(yield* Fiber.poll(writing))) {
            yield* TestClock.adjust("100 millis")
            waited += 100
            yield* poll
          }
          const error = yield* Effect.flip(Effect.flatten(Fiber.join(writing)))
          assert.deepStrictEqual([error.reason, error.code], ["Timeout", "locked"])
          assert.isAtLeast(waited, 10_000)
        }
        yield* Effect.promise(() => Lock.release(path))
        yield* store.put("a", "x")
      })
  )

  it.scopedLive("who held the lock for too long does not replace what another may have written", () =>
    Effect.gen(function* () {
      const { store } = yield* connect()
      const { etag } = yield* store.put("a", "old")
      const clock = yield* Effect.clock
      let now = 0
      const leaps: Clock.Clock = {
        ...clock,
        [Clock.ClockTypeId]: Clock.ClockTypeId,
        unsafeCurrentTimeMillis: () => clock.unsafeCurrentTimeMillis(),
        currentTimeMillis: Effect.sync(() => {
          now += 15_000
          return now
        }),
        unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
        currentTimeNanos: clock.currentTimeNanos,
        sleep: (duration) => clock.sleep(duration)
      }
      const late = yield* Effect.flip(Effect.withClock(store.put("a", "new", { ifMatch: etag }), leaps))
      assert.strictEqual(late.reason, "Timeout")
      assert.strictEqual(new TextDecoder().decode((yield* store.get("a")).bytes), "old")
      yield* store.put("a", "new", { ifMatch: etag })
    })
  )

  it.scopedLive(
    "a writer who is interrupted at any step holds no lock",
    () =>
      Effect.gen(function* () {
        const { directory, store } = yield* connect()
        const turn = Effect.promise(() => new Promise<void>((resume) => setImmediate(resume)))
        for (let i = 0; i < 240; i++) {
          const fiber = yield* Effect.fork(store.put("a", "x"))
          for (let turns = i % 40; turns > 0; turns--) yield* turn
          yield* Fiber.interrupt(fiber)
          // What goes on behind the caller's back comes to its end.
          for (let turns = 40; turns > 0; turns--) yield* turn
          assert.deepStrictEqual(Fs.readdirSync(Path.join(directory, "locks")), [])
        }
        yield* store.put("a", "y")
        assert.deepStrictEqual(Fs.readdirSync(Path.join(directory, "temporary")), [])
      }),
    60_000
  )

  it.scopedLive(
    "who creates an object that is deleted at once has created it, on the disk too",
    () =>
      Effect.gen(function* () {
        const { store } = yield* connect({ durable: true })
        const creates = Effect.forEach(Array.from({ length: 150 }), () =>
          Effect.catchIf(
            store.put("deep/er/a", "x", { ifNoneMatch: "*" }),
            (error) => error.reason === "Conflict",
            () => Effect.void
          )
        )
        const deletes = Effect.forEach(Array.from({ length: 300 }), () => store.delete("deep/er/a"))
        yield* Effect.all([creates, creates, deletes, deletes], { concurrency: "unbounded", discard: true })
      }),
    60_000
  )

  it.scopedLive(
    "on the external plane what the file system fails is told as a failure, and a read is tried again",
    () =>
      Effect.gen(function* () {
        const { directory, store } = yield* connect({ plane: "external" })
        Fs.mkdirSync(Path.join(directory, "objects", "o_private", "x"), { recursive: true })
        const recording = yield* Recording.make
        const outcomeOf = <A, E>(effect: Effect.Effect<A, E>) =>
          Effect.gen(function* () {
            yield* recording.clear
            const error = yield* Effect.flip(recording.within(effect))
            const [line] = yield* recording.lines
            assert.notInclude(String(line?.message) + Cause.pretty(line?.cause ?? Cause.empty), "private")
            return [error, line?.annotations["outcome"], line?.annotations["attempts"]] as const
          })
        const [got, outcome, three] = yield* outcomeOf(store.get("private"))
        assert.deepStrictEqual([got.reason, got.code, outcome, three], ["Unavailable", "EISDIR", "failure", 3])
        const [written, , one] = yield* outcomeOf(store.put("private", "x"))
        assert.deepStrictEqual([written.reason, written.key, one], ["Unavailable", "private", 1])
        const mine = Stream.fail("mine" as const)
        assert.strictEqual(yield* Effect.flip(store.put("a", mine)), "mine")
      })
  )

  it.scopedLive("an error shows no key, not in its cause either", () =>
    Effect.gen(function* () {
      const { directory, store } = yield* connect()
      Fs.mkdirSync(Path.join(directory, "objects", "o_private", "x"), { recursive: true })
      const failed = yield* Effect.flip(store.put("private", "x"))
      assert.strictEqual(failed.key, "private")
      assert.notStrictEqual(failed.code, undefined)
      assert.notInclude(String(failed) + String(failed.cause) + JSON.stringify(failed.cause), "private")
    })
  )

  it.scopedLive("reads that are abandoned or interrupted close their files", () =>
    Effect.gen(function* () {
      const { directory, store } = yield* connect()
      yield* store.put("a", new Uint8Array(2_000_000))
      for (let i = 0; i < 100; i++) {
        yield* Effect.scoped(store.open("a"))
        yield* Stream.runDrain(Stream.take(store.stream("a"), 1))
        const fiber = yield* Effect.fork(Stream.runDrain(store.stream("a")))
        yield* Effect.yieldNow()
        yield* Fiber.interrupt(fiber)
      }
      assert.strictEqual(openFiles(directory), 0)
    })
  )

  it.scopedLive("a file that was damaged is told, by its bytes and by its end", () =>
    Effect.gen(function* () {
      const { directory, store } = yield* connect()
      yield* store.put("a", "hello")
      yield* store.put("b", "hello")
      const path = Path.join(directory, "objects", "o_a")
      const bytes = Fs.readFileSync(path)
      bytes[0] = 0
      Fs.writeFileSync(path, bytes)
      assert.strictEqual((yield* Effect.flip(store.get("a"))).reason, "ChecksumMismatch")
      assert.strictEqual((yield* Effect.flip(Stream.runDrain(store.stream("a")))).reason, "ChecksumMismatch")
      Fs.truncateSync(path, 20)
      assert.strictEqual((yield* Effect.flip(store.get("a"))).reason, "Unknown")
      Fs.writeFileSync(Path.join(directory, "objects", "o_c"), "")
      Fs.writeFileSync(Path.join(directory, "objects", "README"), "")
      assert.deepStrictEqual(yield* keysOf(store), ["b"])
      yield* store.put("a", "again")
      assert.deepStrictEqual(yield* keysOf(store), ["a", "b"])
    })
  )

  it.scopedLive("writers and those who delete do not take each other's folders away", () =>
    Effect.gen(function* () {
      const { directory, store } = yield* connect()
      const again = Effect.forEach(Array.from({ length: 50 }), (_, i) =>
        Effect.zipRight(store.put(`deep/er/${i % 3}`, "x"), store.delete(`deep/er/${i % 3}`))
      )
      yield* Effect.all([again, again, again, again], { concurrency: "unbounded", discard: true })
      yield* store.deleteMany(["deep/er/0", "deep/er/1", "deep/er/2"])
      assert.deepStrictEqual(files(directory), [])
    })
  )

  it.scopedLive("a folder that is not there, or not to be written to, is a typed error", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      const absent = yield* Effect.flip(connect({ directory: Path.join(directory, "absent"), createDirectory: false }))
      assert.strictEqual(absent.reason, "NotFound")
      Fs.writeFileSync(Path.join(directory, "file"), "")
      const file = yield* Effect.flip(connect({ directory: Path.join(directory, "file") }))
      assert.strictEqual(file.reason, "NotFound")
      assert.strictEqual((yield* Effect.flip(connect({ directory: "" }))).reason, "InvalidSettings")
      const lost = yield* connect({ directory })
      assert.strictEqual((yield* lost.health).status, "up")
      Fs.rmSync(Path.join(directory, "objects"), { recursive: true })
      assert.strictEqual((yield* lost.health).status, "down")
    })
  )

  it.scopedLive("on the internal plane nothing is emitted; on the external one span for each operation", () =>
    Effect.gen(function* () {
      const all = (store: typeof ObjectStore.ObjectStore.Service) =>
        Effect.gen(function* () {
          yield* store.put("quiet", "x")
          yield* store.get("quiet")
          yield* Stream.runDrain(store.stream("quiet"))
          yield* Stream.runDrain(store.list())
          yield* store.copy("quiet", "quieter")
          yield* store.deleteMany(["quiet", "quieter"])
        })
      const internal = yield* connect()
      yield* Recording.assertSilent(Effect.zipRight(all(internal.store), internal.health))
      const external = yield* connect({ plane: "external" })
      const recording = yield* Recording.make
      yield* recording.within(all(external.store))
      assert.deepStrictEqual(
        (yield* recording.spans).map(({ name }) => name),
        ["put", "get", "stream", "list", "copy", "deleteMany"].map((name) => `filesystem.${name}`)
      )
    })
  )
})
