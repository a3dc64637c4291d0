import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as Driver from "@electric-sql/pglite"
import { Deferred, Effect, Exit, Fiber, Queue, Scope, Stream } from "effect"
import { DatabaseError, PGlite, Postgres } from "../../src/index.ts"

const reasonOf = (error: unknown) => (error instanceof DatabaseError.DatabaseError ? error.reason : undefined)

const temporaryFolder = Effect.acquireRelease(
  Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "underlay-pglite-"))),
  (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
)

/** The engine's own main loop, so that it can be made to trap as its code would. */
const breakable = Effect.acquireRelease(
  Effect.sync(() => {
    const create = Driver.PGlite.create
    const trap = { now: false }
    const planted = async (...given: ReadonlyArray<unknown>) => {
      const database: Driver.PGlite = await Reflect.apply(create, Driver.PGlite, given)
      const module: object = database.Module
      const once: unknown = Reflect.get(module, "_PostgresMainLoopOnce")
      Reflect.set(module, "_PostgresMainLoopOnce", () => {
        if (trap.now) throw new WebAssembly.RuntimeError("unreachable")
        if (typeof once === "function") once()
      })
      return database
    }
    Reflect.set(Driver.PGlite, "create", planted)
    return { trap, create }
  }),
  ({ create }) => Effect.sync(() => Reflect.set(Driver.PGlite, "create", create))
)

describe("PGlite's engine", () => {
  it.live(
    "that crashed fails every later statement with a typed error, and never answers that it is done",
    () =>
      Effect.gen(function* () {
        const { trap } = yield* breakable
        const scope = yield* Scope.make()
        const { health, sql, state } = yield* Scope.extend(PGlite.make({ vector: false }), scope)
        yield* sql`create table kept (n int)`
        trap.now = true
        const first = yield* Effect.flip(sql.withTransaction(sql`insert into kept values (${1})`))
        assert.strictEqual(reasonOf(first), "Closed")
        assert.isFalse(first instanceof DatabaseError.DatabaseError && first.isRetryable)
        // Though it would run again, what is in its memory cannot be relied upon.
        trap.now = false
        for (const work of [
          sql`insert into kept values (2)`,
          sql`insert into kept values (${3})`,
          sql`select n from kept`.values,
          sql.withTransaction(sql`insert into kept values (4)`),
          Stream.runDrain(sql`select 1`.stream)
        ]) {
          assert.strictEqual(reasonOf(yield* Effect.flip(work)) ?? "none", "Closed")
        }
        assert.strictEqual((yield* health).status, "down")
        assert.strictEqual(yield* state, "down")
        yield* Effect.timeout(Scope.close(scope, Exit.void), "10 seconds")
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "a folder belongs to one: a second connection and another process are refused, what a dead one left is not in the way",
    () =>
      Effect.gen(function* () {
        const folder = yield* temporaryFolder
        const dataDir = Path.join(folder, "data")
        const scope = yield* Scope.make()
        yield* Scope.extend(PGlite.make({ dataDir, vector: false }), scope)
        const second = yield* Effect.flip(Effect.scoped(PGlite.make({ dataDir, vector: false })))
        assert.strictEqual(second.reason, "Conflict")
        assert.include(second.message, "in use")
        yield* Scope.close(scope, Exit.void)
        assert.isFalse(Fs.existsSync(`${dataDir}.lock`))
        const child = ChildProcess.spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" })
        yield* Effect.addFinalizer(() => Effect.sync(() => child.kill("SIGKILL")))
        Fs.writeFileSync(`${dataDir}.lock`, `${Os.hostname()} ${child.pid}\n`)
        const other = yield* Effect.flip(Effect.scoped(PGlite.make({ dataDir, vector: false })))
        assert.strictEqual(other.reason, "Conflict")
        yield* Effect.async<void>((resume) => {
          child.once("exit", () => resume(Effect.void))
          child.kill("SIGKILL")
        })
        const rows = yield* Effect.scoped(
          Effect.flatMap(PGlite.make({ dataDir, vector: false }), ({ sql }) => sql`select 1 as one`)
        )
        assert.deepStrictEqual(rows, [{ one: 1 }])
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "that crashes while COMMIT runs leaves an outcome that is not known, and ends who listens",
    () =>
      Effect.gen(function* () {
        const { trap } = yield* breakable
        const { listen, sql } = yield* PGlite.make({ vector: false })
        yield* sql`create table kept (n int)`
        const queue = yield* Queue.unbounded<Postgres.Notification>()
        const listening = yield* Effect.fork(
          Effect.exit(Stream.runForEach(listen("orders"), (message) => Queue.offer(queue, message)))
        )
        yield* Queue.take(queue)
        const crash = Effect.sync(() => {
          trap.now = true
        })
        const error = yield* Effect.flip(sql.withTransaction(Effect.zipLeft(sql`insert into kept values (1)`, crash)))
        assert.strictEqual(reasonOf(error), "Closed")
        assert.isTrue(error instanceof DatabaseError.DatabaseError && error.outcomeUnknown)
        const later = yield* Effect.flip(sql.withTransaction(sql`insert into kept values (2)`))
        assert.isTrue(later instanceof DatabaseError.DatabaseError && !later.outcomeUnknown)
        assert.isTrue(Exit.isFailure(yield* Effect.timeout(Fiber.join(listening), "5 seconds")))
        assert.strictEqual(reasonOf(yield* Effect.flip(Stream.runDrain(listen("orders")))), "Closed")
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "LISTEN works in process, beside somebody's transaction that is undone; limits of statements are refused",
    () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const connection = yield* Scope.extend(PGlite.make({ vector: false }), scope)
        const { capabilities, listen, notify, sql } = connection
        assert.isFalse(capabilities.concurrentTransactions)
        const queue = yield* Queue.unbounded<Postgres.Notification>()
        const inside = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const undone = yield* Effect.fork(
          Effect.exit(
            sql.withTransaction(
              Effect.zipRight(
                sql`select 1`,
                Effect.zipRight(
                  Deferred.succeed(inside, undefined),
                  Effect.zipRight(Deferred.await(go), Effect.fail("undo"))
                )
              )
            )
          )
        )
        yield* Deferred.await(inside)
        const fiber = yield* Effect.fork(Stream.runForEach(listen("Orders"), (message) => Queue.offer(queue, message)))
        yield* Effect.yieldNow()
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(undone)
        const next = Effect.timeout(Queue.take(queue), "10 seconds")
        assert.deepStrictEqual(yield* next, { _tag: "Listening", again: false })
        yield* notify("Orders", "1")
        yield* sql.withTransaction(notify("Orders", "2"))
        const heard = [yield* next, yield* next]
        assert.deepStrictEqual(
          heard.map((message) => (message._tag === "Notification" ? message.payload : "")),
          ["1", "2"]
        )
        assert.strictEqual(reasonOf(yield* Effect.flip(notify("Orders", "x".repeat(8_000)))), "InvalidRequest")
        assert.strictEqual(
          reasonOf(yield* Effect.flip(Postgres.withStatementTimeout(sql`select 1`, "1 second"))),
          "Unsupported"
        )
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(reasonOf(yield* Effect.flip(Fiber.join(fiber))), "Closed")
        assert.deepInclude(yield* connection.drained, { kind: "pglite", inUse: 0, cut: 0 })
        assert.strictEqual(yield* connection.state, "closed")
      }).pipe(Effect.scoped),
    60_000
  )
})
