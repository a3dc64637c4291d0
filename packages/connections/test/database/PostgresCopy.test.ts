import * as V8 from "node:v8"
import * as Vm from "node:vm"
import { assert, describe, it, layer } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import { Chunk, Deferred, Effect, Fiber, Schedule, Stream } from "effect"
import * as FastCheck from "fast-check"
import { DatabaseError, PostgresCopy } from "../../src/index.ts"
import { connect, errorOf, eventually, running, Server, soon } from "./postgresTools.ts"

const live = { timeout: "60 seconds", excludeTestServices: true } as const

const cell = FastCheck.option(
  FastCheck.oneof(
    FastCheck.string({ unit: "grapheme" }),
    FastCheck.constantFrom("", "\\N", "\\.", '"', ",", "\t", "\n", "\r\n", "\\", "a\\tb", "NULL", "é€😀", " x ")
  ),
  { nil: null }
)
const table = FastCheck.array(FastCheck.array(cell, { minLength: 2, maxLength: 2 }), { maxLength: 8 })

V8.setFlagsFromString("--expose-gc")
const collect: () => void = Vm.runInNewContext("gc")

/** What is held: what only waits to be collected is not. */
const held = (): number => {
  collect()
  const { arrayBuffers, heapUsed } = process.memoryUsage()
  return arrayBuffers + heapUsed
}

const pieces = (bytes: Uint8Array, size: number): Array<Uint8Array> =>
  Array.from({ length: Math.ceil(bytes.length / size) }, (_, n) => bytes.subarray(n * size, (n + 1) * size))

describe("PostgresCopy", () => {
  it.effect("what is written is read back, however it is cut into pieces, as text and as CSV", () =>
    Effect.promise(() =>
      FastCheck.assert(
        FastCheck.asyncProperty(table, FastCheck.integer({ min: 1, max: 7 }), (rows, size) =>
          Effect.runPromise(
            Effect.gen(function* () {
              for (const [to, from] of [
                [PostgresCopy.toText, PostgresCopy.fromText],
                [PostgresCopy.toCsv, PostgresCopy.fromCsv]
              ] as const) {
                const written = Buffer.concat(Chunk.toArray(yield* Stream.runCollect(to(Stream.fromIterable(rows)))))
                const read = yield* Stream.runCollect(from(Stream.fromIterable(pieces(written, size))))
                assert.deepStrictEqual(
                  Chunk.toArray(read).map((row) => [...row]),
                  rows
                )
              }
            })
          )
        ),
        { numRuns: 200 }
      )
    )
  )

  it.effect("CSV that ends within quotes, and values that cannot be stored, are typed errors", () =>
    Effect.gen(function* () {
      const open = yield* Effect.flip(Stream.runDrain(PostgresCopy.fromCsv(Stream.make(Buffer.from('a,"b')))))
      assert.strictEqual(open.reason, "InvalidRequest")
      const never = yield* Effect.flip(Stream.runDrain(PostgresCopy.toText(Stream.make([() => 1]))))
      assert.strictEqual(never.reason, "InvalidRequest")
    })
  )
})

describe.skipIf(Need.missing("postgres"))(Need.title("COPY", "postgres"), () => {
  layer(Server.layer, live)("against a real server", (it) => {
    it.scoped("rows in both formats arrive and come back as they were", () =>
      Effect.gen(function* () {
        const { copyIn, copyOut, sql } = yield* connect()
        yield* sql`create table copied (a text, b text)`
        const rows = FastCheck.sample(table, { numRuns: 60, seed: 7 })
          .flat()
          .map((row) => row.map((value) => value?.replaceAll("\0", "") ?? value))
        for (const [to, from, options] of [
          [PostgresCopy.toText, PostgresCopy.fromText, ""],
          [PostgresCopy.toCsv, PostgresCopy.fromCsv, "(format csv)"]
        ] as const) {
          yield* sql`truncate copied`
          assert.strictEqual(
            yield* copyIn(`copy copied from stdin ${options}`, to(Stream.fromIterable(rows))),
            rows.length
          )
          assert.deepStrictEqual(
            (yield* sql`select a, b from copied order by ctid`).map((row) => [row["a"], row["b"]]),
            rows
          )
          const back = yield* Stream.runCollect(from(copyOut(`copy copied to stdout ${options}`)))
          assert.deepStrictEqual(
            Chunk.toArray(back).map((row) => [...row]),
            rows
          )
        }
        const at = new Date(0)
        yield* sql`create table typed (n int, at timestamptz, list int[], json jsonb)`
        yield* copyIn("copy typed from stdin", PostgresCopy.toText(Stream.make([1, at, [1, 2], { a: [1] }])))
        assert.deepStrictEqual(yield* sql`select * from typed`, [{ n: 1, at, list: [1, 2], json: { a: [1] } }])
      })
    )

    it.scoped("a hundred megabytes each way take little memory, and the consumer may leave early", () =>
      Effect.gen(function* () {
        const { copyIn, copyOut, sql, stats } = yield* connect({ maxConnections: 1 })
        yield* sql`create unlogged table large (a text)`
        const line = Buffer.from(`${"x".repeat(999)}\n`)
        const block = Buffer.concat(Array.from({ length: 100 }, () => line))
        const before = held()
        let peak = 0
        let looks = 0
        const atMegabytes = (megabytes: number) =>
          Effect.sync(() => {
            if (megabytes < (looks + 1) * 10) return
            looks++
            peak = Math.max(peak, held() - before)
          })
        const source = Stream.repeat(Stream.make(block), Schedule.recurs(999))
        let sent = 0
        assert.strictEqual(
          yield* copyIn(
            "copy large from stdin",
            Stream.tap(source, () => atMegabytes(++sent / 10))
          ),
          100_000
        )
        let bytes = 0
        yield* Stream.runForEach(copyOut("copy large to stdout"), (piece) =>
          Effect.suspend(() => {
            bytes += piece.length
            return atMegabytes(100 + bytes / 1_000_000)
          })
        )
        assert.strictEqual(bytes, 100_000_000)
        assert.strictEqual(looks, 20)
        assert.isBelow(peak, 40_000_000)
        const [some] = Chunk.toArray(yield* Stream.runCollect(Stream.take(copyOut("copy large to stdout"), 1)))
        assert.isAbove(some?.length ?? 0, 0)
        yield* soon(
          "its connection is given up",
          Effect.map(stats, ({ inUse }) => inUse === 0)
        )
        assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
      })
    )

    it.scoped(
      "a bad row is typed, with its line, without its values; a source that fails passes as it is; both store nothing",
      () =>
        Effect.gen(function* () {
          const { copyIn, copyOut, sql, stats } = yield* connect({ maxConnections: 1 })
          yield* sql`create table strict (n int)`
          // The source goes on, if it is let, long after the server has given up.
          const endless = Stream.concat(Stream.make("1\n2\nhidden\n"), Stream.forever(Stream.make("3\n")))
          const bad = yield* Effect.flip(
            copyIn(
              "copy strict from stdin",
              Stream.map(endless, (line) => Buffer.from(line))
            )
          )
          assert.instanceOf(bad, DatabaseError.DatabaseError)
          if (!(bad instanceof DatabaseError.DatabaseError)) return
          assert.strictEqual(bad.code, "22P02")
          assert.strictEqual(bad.line, 3)
          assert.notInclude(bad.message, "hidden")
          // The server gives up while the source says nothing more.
          const silent = Stream.concat(Stream.make(Buffer.from("x\n".repeat(100_000))), Stream.never)
          assert.strictEqual(errorOf(yield* Effect.flip(copyIn("copy strict from stdin", silent))).code, "22P02")
          const mine = yield* Effect.flip(
            copyIn("copy strict from stdin", Stream.concat(Stream.make(Buffer.from("1\n")), Stream.fail("mine")))
          )
          assert.strictEqual(mine, "mine")
          const wrong = yield* Effect.flip(copyIn("copy strict from nowhere", Stream.empty))
          assert.strictEqual(errorOf(wrong).reason, "InvalidRequest")
          assert.instanceOf(wrong, DatabaseError.DatabaseError)
          const none = yield* Effect.flip(copyIn("select 1", Stream.empty))
          assert.strictEqual(errorOf(none).reason, "InvalidRequest")
          const out = yield* Effect.flip(
            Stream.runDrain(copyOut("copy (select 1 / (n - 3) from generate_series(1, 5) n) to stdout"))
          )
          assert.strictEqual(errorOf(out).code, "22012")
          assert.deepStrictEqual(yield* sql`select * from strict`, [])
          assert.strictEqual((yield* stats).inUse, 0)
        })
    )

    it.scoped(
      "interruption stores nothing and leaves nothing behind on the server; also while it waits for a lock",
      () =>
        Effect.gen(function* () {
          const { copyIn, sql, stats } = yield* connect({ maxConnections: 2 })
          const watch = (yield* connect()).sql
          yield* sql`create table stopped (n int)`
          const sent = yield* Deferred.make<void>()
          const source = Stream.concat(
            Stream.make(Buffer.from("1\n")),
            Stream.fromEffect(Effect.zipRight(Deferred.succeed(sent, undefined), Effect.never))
          )
          const fiber = yield* Effect.fork(copyIn("copy stopped from stdin", source))
          yield* Deferred.await(sent)
          yield* Fiber.interrupt(fiber)
          yield* eventually(
            "it is over",
            Effect.map(running(watch, "copy stopped"), (count) => count === 0)
          )
          yield* sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`lock table stopped in access exclusive mode`
              // Not a child of this transaction, but beside it.
              const beside = yield* Deferred.make<Fiber.RuntimeFiber<number, unknown>>()
              const other = yield* connect({ maxConnections: 1 })
              yield* Deferred.succeed(beside, yield* Effect.fork(other.copyIn("copy stopped from stdin", Stream.never)))
              yield* eventually(
                "it waits",
                Effect.map(running(watch, "copy stopped"), (count) => count === 1)
              )
              yield* Effect.flatMap(Deferred.await(beside), Fiber.interrupt)
              yield* eventually(
                "it is cancelled",
                Effect.map(running(watch, "copy stopped"), (count) => count === 0)
              )
            })
          )
          yield* soon(
            "nothing is in use",
            Effect.map(stats, ({ inUse }) => inUse === 0)
          )
          assert.deepStrictEqual(yield* sql`select * from stopped`, [])
        })
    )

    it.scoped(
      "in a transaction it takes part in it, first or later; a statement beside it gets a typed error and waits not for ever",
      () =>
        Effect.gen(function* () {
          const { copyIn, copyOut, sql } = yield* connect({ maxConnections: 1, acquireTimeout: "200 millis" })
          yield* sql`create table part (n int)`
          const one = Stream.make(Buffer.from("1\n"))
          yield* Effect.ignore(
            sql.withTransaction(Effect.zipRight(copyIn("copy part from stdin", one), Effect.fail("undo")))
          )
          assert.deepStrictEqual(yield* sql`select * from part`, [])
          yield* sql
            .withTransaction(
              Effect.gen(function* () {
                yield* copyIn("copy part from stdin", one)
                const read = yield* Stream.runCollect(PostgresCopy.fromText(copyOut("copy part to stdout")))
                assert.deepStrictEqual(Chunk.toArray(read), [["1"]])
                const beside = yield* Effect.flip(
                  copyIn(
                    "copy part from stdin",
                    Stream.mapEffect(one, (bytes) => Effect.as(sql`select 1`, bytes))
                  )
                )
                assert.strictEqual(errorOf(beside).reason, "Timeout")
              })
            )
            .pipe(Effect.exit)
          assert.isAtMost((yield* sql`select * from part`).length, 1)
        })
    )
  })
})
