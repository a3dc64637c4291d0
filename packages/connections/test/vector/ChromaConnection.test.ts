import * as Http from "node:http"
import { assert, describe, it, layer } from "@effect/vitest"
import { Connections, VectorStore } from "@underlay/core"
import { ConnectionSuite, Recording } from "@underlay/core/testing"
import * as ChromaServer from "@underlay/servers/ChromaServer"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as Need from "@underlay/servers/Need"
import {
  ConfigProvider,
  Context,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  Redacted,
  Runtime,
  Schedule,
  Stream
} from "effect"
import * as FastCheck from "effect/FastCheck"
import { Chroma } from "../../src/index.ts"

class TheServer extends Context.Tag("test/ChromaServer")<TheServer, ChromaServer.ChromaServer>() {}

const connect = (settings: Partial<Chroma.ChromaSettings> = {}) =>
  Effect.flatMap(TheServer, ({ url }) => Chroma.make({ url, plane: "internal", ...settings }))

const { Filter } = VectorStore

let made = 0
const fresh = (): string => `test-${process.pid}-${made++}`

const collection = (
  store: Context.Tag.Service<VectorStore.VectorStore>,
  shape: VectorStore.CollectionShape = { dimensions: 2, metric: "l2" }
) =>
  Effect.suspend(() => {
    const name = fresh()
    return Effect.as(store.ensureCollection(name, shape), name)
  })

const root = "/api/v2/tenants/default_tenant/databases/default_database/collections"

const raw = (method: string, path: string, body?: unknown) =>
  Effect.flatMap(TheServer, ({ url }) =>
    Effect.promise(async () => {
      const answer = await fetch(`${url}${path}`, {
        method,
        ...(body === undefined
          ? {}
          : {
              headers: { "content-type": "application/json" },
              body: typeof body === "string" ? body : JSON.stringify(body)
            })
      })
      const value: unknown = await answer.json()
      return value
    })
  )

const until = <A, E>(effect: Effect.Effect<A, E>, what: (value: A) => boolean) =>
  Effect.filterOrFail(effect, what, () => "not yet" as const).pipe(
    Effect.retry({ schedule: Schedule.spaced("10 millis"), times: 500, while: (error) => error === "not yet" })
  )

const ids = (found: ReadonlyArray<{ readonly id: string }>): ReadonlyArray<string> => found.map(({ id }) => id).sort()

describe.skipIf(Need.missing("chroma"))(Need.title("Chroma as a connection", "chroma"), () => {
  layer(Layer.scoped(TheServer, ChromaServer.make), { excludeTestServices: true, timeout: "60 seconds" })(
    "real",
    (it) => {
      describe("collections", () => {
        it.scoped(
          "one that is there with another metric or other dimensions is CollectionMismatch, never taken for it",
          () =>
            Effect.gen(function* () {
              const { store } = yield* connect()
              const name = fresh()
              yield* raw("POST", root, { name, configuration: { hnsw: { space: "l2" } } })
              // get-or-create gives what is there, and says nothing
              const same = yield* raw("POST", root, {
                name,
                configuration: { hnsw: { space: "ip" } },
                get_or_create: true
              })
              assert.include(JSON.stringify(same), '"space":"l2"')
              const error = yield* Effect.flip(store.ensureCollection(name, { dimensions: 2, metric: "cosine" }))
              assert.strictEqual(error.reason, "CollectionMismatch")
              // what another program made without dimensions gets them
              assert.strictEqual((yield* Effect.flip(store.count(name))).reason, "Unsupported")
              yield* store.ensureCollection(name, { dimensions: 3, metric: "l2" })
              yield* store.upsert(name, [{ id: "a", vector: [1, 0, 0] }])
              assert.strictEqual(
                (yield* Effect.flip(store.ensureCollection(name, { dimensions: 2, metric: "l2" }))).reason,
                "CollectionMismatch"
              )
            })
        )

        it.scoped("names that the server does not take are kept under others", () =>
          Effect.gen(function* () {
            const { store } = yield* connect()
            for (const name of ["-ab", "ab_", "a..b", "1.2.3.4", "..."]) {
              yield* store.ensureCollection(name, { dimensions: 2, metric: "dot" })
              yield* store.upsert(name, [{ id: name, vector: [1, 0] }])
              assert.deepInclude(yield* store.collections, { name, dimensions: 2, metric: "dot" })
              assert.deepStrictEqual(ids(yield* store.query(name, { vector: [1, 0] })), [name])
              assert.isTrue(yield* store.dropCollection(name))
            }
          })
        )

        it.scoped("what another made of a collection is found out, whatever was known of it", () =>
          Effect.gen(function* () {
            const { store } = yield* connect()
            const { store: other } = yield* connect()
            const name = yield* collection(store)
            yield* store.upsert(name, [{ id: "a", vector: [1, 0] }])
            yield* other.dropCollection(name)
            assert.strictEqual((yield* Effect.flip(store.count(name))).reason, "CollectionNotFound")
            yield* other.ensureCollection(name, { dimensions: 3, metric: "dot" })
            yield* store.upsert(name, [{ id: "b", vector: [1, 0, 0] }])
            assert.strictEqual((yield* store.query(name, { vector: [2, 0, 0] }))[0]?.score, 2)
          })
        )

        it.scoped("databases and tenants are apart; one that is not there hinders the start", () =>
          Effect.gen(function* () {
            yield* raw("POST", "/api/v2/tenants", { name: "acme ü" })
            yield* raw("POST", `/api/v2/tenants/${encodeURIComponent("acme ü")}/databases`, { name: "one" })
            const { store } = yield* connect()
            const { store: there } = yield* connect({ tenant: "acme ü", database: "one" })
            yield* there.ensureCollection("apart", { dimensions: 2, metric: "l2" })
            yield* there.upsert("apart", [{ id: "a", vector: [1, 0] }])
            assert.strictEqual(yield* there.count("apart"), 1)
            assert.strictEqual((yield* Effect.flip(store.count("apart"))).reason, "CollectionNotFound")
            assert.strictEqual((yield* Effect.flip(connect({ tenant: "acme ü", database: "two" }))).reason, "NotFound")
            assert.strictEqual((yield* Effect.flip(connect({ database: "" }))).reason, "InvalidSettings")
          })
        )
      })

      describe("records", () => {
        it.scoped("an upsert replaces: keys and documents that it has not are gone, from filters too", () =>
          Effect.gen(function* () {
            const { store } = yield* connect()
            const name = yield* collection(store)
            yield* store.upsert(name, [
              { id: "a", vector: [1, 0], metadata: { old: 1, both: "x", precise: 0.1 + 0.2 }, document: "text" },
              { id: "b", vector: [1, 0], metadata: { both: "x" } }
            ])
            yield* store.upsert(name, [
              { id: "a", vector: [0, 1], metadata: { both: 2, fresh: true, precise: "text" } },
              { id: "b", vector: [1, 0], metadata: { both: "x" } }
            ])
            assert.deepStrictEqual(yield* store.get(name, ["a"]), [
              { id: "a", vector: [0, 1], metadata: { both: 2, fresh: true, precise: "text" } }
            ])
            assert.deepStrictEqual(ids(yield* store.query(name, { vector: [1, 0], filter: Filter.exists("old") })), [])
            for (const [filter, expected] of [
              [Filter.eq("old", 1), []],
              [Filter.ne("old", 1), ["a", "b"]],
              [Filter.eq("both", "x"), ["b"]],
              [Filter.gte("both", 2), ["a"]],
              [Filter.eq("precise", 0.1 + 0.2), []],
              [Filter.gt("precise", 0), []]
            ] as const) {
              assert.deepStrictEqual(ids(yield* store.query(name, { vector: [1, 0], filter })), expected)
            }
          })
        )

        it.scoped("writers of one id with other keys at once leave the record of one of them", () =>
          Effect.gen(function* () {
            const { store } = yield* connect()
            const name = yield* collection(store)
            yield* Effect.forEach(
              Array.from({ length: 24 }, (_, n) => n),
              (n) =>
                store.upsert(
                  name,
                  ["x", "y"].map((id) => ({ id, vector: [1, n], metadata: { [`of${n}`]: n } }))
                ),
              { concurrency: "unbounded" }
            )
            for (const { metadata, vector } of yield* store.get(name, ["x", "y"])) {
              const [, own = -1] = vector
              assert.deepStrictEqual(metadata, { [`of${own}`]: own })
              for (let n = 0; n < 24; n++) {
                const found = yield* store.count(name, Filter.exists(`of${n}`))
                if (n !== vector[1]) assert.isAtMost(found, 1)
              }
            }
            // who gives up waiting neither holds up the others nor lets them go before their turn
            for (let round = 0; round < 8; round++) {
              const id = `round${round}`
              const writer = (key: string) =>
                Effect.fork(store.upsert(name, [{ id, vector: [1, round], metadata: { [key]: round } }]))
              const first = yield* writer("first")
              yield* Effect.yieldNow()
              const second = yield* writer("second")
              yield* Effect.yieldNow()
              yield* Fiber.interrupt(second)
              const third = yield* writer("third")
              yield* Fiber.join(first)
              yield* Fiber.join(third)
              assert.deepStrictEqual((yield* store.get(name, [id]))[0]?.metadata, { third: round })
              assert.strictEqual(yield* store.count(name, Filter.eq("third", round)), 1)
              assert.strictEqual(yield* store.count(name, Filter.eq("first", round)), 0)
            }
          })
        )

        it.scoped("keys that the server has for itself are keys as any other (one of them ended it)", () =>
          Effect.gen(function* () {
            const { store } = yield* connect()
            const name = yield* collection(store)
            const keys = [
              "chroma:document",
              "chroma:uri",
              "$and",
              "$or",
              "$contains",
              "#document",
              "~shape",
              "~t:a",
              "~k:a",
              "a"
            ]
            for (const [n, key] of keys.entries()) {
              yield* store.upsert(name, [{ id: `r${n}`, vector: [1, 0], metadata: { [key]: n }, document: "text" }])
            }
            for (const [n, key] of keys.entries()) {
              assert.deepStrictEqual((yield* store.get(name, [`r${n}`]))[0]?.metadata, { [key]: n })
              for (const filter of [Filter.eq(key, n), Filter.exists(key), Filter.gte(key, n)]) {
                assert.deepStrictEqual(ids(yield* store.query(name, { vector: [1, 0], filter })), [`r${n}`])
              }
            }
          })
        )

        it.scoped("whole numbers and fractions are numbers alike (chroma#7491)", () =>
          Effect.gen(function* () {
            const { store } = yield* connect()
            const name = yield* collection(store)
            yield* store.upsert(
              name,
              [1, 2, 2.5, 3].map((n) => ({ id: `n${n}`, vector: [1, 0], metadata: { n } }))
            )
            const found = (filter: VectorStore.Filter.Filter) =>
              Effect.map(store.query(name, { vector: [1, 0], filter }), ids)
            assert.deepStrictEqual(yield* found(Filter.eq("n", 2.5)), ["n2.5"])
            assert.deepStrictEqual(yield* found(Filter.lt("n", 2.5)), ["n1", "n2"])
            assert.deepStrictEqual(yield* found(Filter.in("n", [1, 2.5])), ["n1", "n2.5"])
            assert.deepStrictEqual(yield* found(Filter.gte("n", 2)), ["n2", "n2.5", "n3"])
          })
        )

        it.scoped("every double comes back as it was, and filters are exact about it, though the server is not", () =>
          Effect.gen(function* () {
            const { store } = yield* connect()
            const name = yield* collection(store)
            const near = [
              0.1 + 0.2,
              2 ** 53 - 1,
              1e23,
              5e-324,
              -1.7976931348623157e308,
              123456789.12345679,
              3951669786019114
            ]
            const others = FastCheck.sample(
              FastCheck.oneof(
                FastCheck.double({ noNaN: true, noDefaultInfinity: true }),
                FastCheck.double({ min: 0, max: 1, noNaN: true }),
                FastCheck.maxSafeInteger()
              ),
              { numRuns: 400, seed: 7 }
            )
            const numbers = [...new Set([...near, ...others].map((n) => (n === 0 ? 0 : n)))]
            const records = numbers.map((n, index) => ({ id: `d${index}`, vector: [1, 0], metadata: { n } }))
            yield* store.upsert(name, records)
            const back = yield* store.get(
              name,
              records.map(({ id }) => id)
            )
            assert.deepStrictEqual(
              back.map(({ metadata }) => metadata["n"]),
              numbers
            )
            const step = (value: number, by: bigint): number => {
              const view = new DataView(new ArrayBuffer(8))
              view.setFloat64(0, value)
              view.setBigUint64(0, view.getBigUint64(0) + by)
              return view.getFloat64(0)
            }
            for (const n of numbers.slice(0, 40)) {
              for (const value of [n, n === 0 ? 1 : step(n, 1n), n === 0 ? -1 : step(n, -1n)]) {
                if (!Number.isFinite(value)) continue
                for (const op of ["eq", "gt", "gte", "lt", "lte"] as const) {
                  const filter = Filter[op]("n", value)
                  const expected = records.filter(({ metadata }) => Filter.matches(filter, metadata)).length
                  assert.strictEqual(yield* store.count(name, filter), expected, `${op} ${value}`)
                  assert.strictEqual(yield* store.count(name, Filter.not(filter)), records.length - expected)
                }
              }
            }
          })
        )

        it.scoped("cosine: vectors of any length come back as they were written", () =>
          Effect.gen(function* () {
            const { store } = yield* connect()
            const name = yield* collection(store, { dimensions: 3, metric: "cosine" })
            const vectors = [
              [3, 4, 12],
              [1e-9, 2e-9, 3e-9],
              [4e17, -3e18, 1],
              [0.6, 0.8, 0]
            ].map((vector) => vector.map(Math.fround))
            yield* store.upsert(
              name,
              vectors.map((vector, n) => ({ id: `v${n}`, vector }))
            )
            assert.deepStrictEqual(
              (yield* store.get(name, ["v0", "v1", "v2", "v3"])).map(({ vector }) => vector),
              vectors
            )
            const [first] = yield* store.query(name, { vector: [2e-9, 4e-9, 6e-9], includeVector: true })
            assert.deepStrictEqual([first?.id, first?.vector], ["v1", vectors[1]])
            assert.closeTo(first?.score ?? 0, 1, 1e-6)
          })
        )

        it.scoped("a collection that another program made and filled is read", () =>
          Effect.gen(function* () {
            const { store } = yield* connect()
            const name = fresh()
            const made = yield* raw("POST", root, { name, configuration: { hnsw: { space: "cosine" } } })
            const uuid = (made as { readonly id: string }).id
            yield* raw("POST", `${root}/${uuid}/add`, {
              ids: ["a", "b"],
              embeddings: [
                [1, 0],
                [0, 1]
              ],
              metadatas: [{ kind: "x", n: 1 }, null],
              documents: ["text", null]
            })
            assert.deepInclude(yield* store.collections, { name, dimensions: 2, metric: "cosine" })
            assert.deepStrictEqual(yield* store.get(name, ["b", "a"]), [
              { id: "b", vector: [0, 1], metadata: {} },
              { id: "a", vector: [1, 0], metadata: { kind: "x", n: 1 }, document: "text" }
            ])
            assert.strictEqual(
              (yield* store.query(name, { vector: [1, 0], filter: Filter.eq("kind", "x") }))[0]?.score,
              1
            )
            // what we write over it, replaces it
            yield* store.upsert(name, [{ id: "a", vector: [1, 0], metadata: { n: 2 } }])
            assert.deepStrictEqual((yield* store.get(name, ["a"]))[0]?.metadata, { n: 2 })
            assert.strictEqual(yield* store.count(name, Filter.exists("kind")), 0)
          })
        )

        it.scoped(
          "more than the server takes at once is cut; pages are as large as the port lets them be",
          () =>
            Effect.gen(function* () {
              const { store } = yield* connect({ batchSize: 100_000 })
              const name = yield* collection(store)
              const many = Array.from({ length: 11_000 }, (_, n) => ({ id: `m${n}`, vector: [1, n] }))
              yield* store.upsert(name, many)
              assert.strictEqual(yield* store.count(name), 11_000)
              const pages: Array<number> = []
              yield* Stream.runForEachChunk(store.scroll(name, { pageSize: 10_000 }), (page) =>
                Effect.sync(() => {
                  pages.push(page.length)
                })
              )
              assert.deepStrictEqual(pages, [10_000, 1_000])
              assert.strictEqual((yield* store.query(name, { vector: [1, 0], limit: 10_000 })).length, 10_000)
              assert.strictEqual(
                (yield* store.get(
                  name,
                  many.map(({ id }) => id)
                )).length,
                11_000
              )
              assert.strictEqual(
                yield* store.delete(
                  name,
                  many.slice(0, 10_500).map(({ id }) => id)
                ),
                10_500
              )
              assert.strictEqual(yield* store.deleteAll(name), 500)
            }),
          60_000
        )

        it.scoped(
          "of vectors that are equal the index loses some: the answer has them all the same",
          () =>
            Effect.gen(function* () {
              const recording = yield* Recording.make
              const { store } = yield* connect({ plane: "external" })
              const name = yield* collection(store, { dimensions: 2, metric: "cosine" })
              const many = 600
              const records = Array.from({ length: many }, (_, n) => ({
                id: `r${String(n).padStart(3, "0")}`,
                vector: [3, 4],
                metadata: { n },
                document: `text ${n}`
              }))
              yield* store.upsert(name, records)
              const all = records.map(({ id }) => id)
              // what the server says of it
              const made = yield* raw("GET", `${root}/${name}`)
              const uuid = (made as { readonly id: string }).id
              const asked = { query_embeddings: [[0.6, 0.8]], n_results: 1_000, include: [] }
              const given = yield* raw("POST", `${root}/${uuid}/query`, asked)
              const [seen = []] = (given as { readonly ids: ReadonlyArray<ReadonlyArray<string>> }).ids
              assert.isBelow(seen.length, many, "the fault that this is about")
              const lost = all.findIndex((id) => !seen.includes(id))

              const found = (query: Partial<VectorStore.Query>) =>
                Effect.map(store.query(name, { vector: [3, 4], ...query }), (matches) => matches.map(({ id }) => id))
              assert.deepStrictEqual(yield* found({ limit: 1_000 }), all)
              assert.deepStrictEqual(yield* found({ limit: many }), all)
              assert.deepStrictEqual(yield* found({ limit: many - 1 }), all.slice(0, -1))
              assert.deepStrictEqual(yield* found({}), all.slice(0, 10))
              assert.deepStrictEqual(yield* found({ limit: 1_000, minScore: 0.99 }), all)
              assert.deepStrictEqual(yield* found({ limit: 1_000, vector: [-3, -4], minScore: 0 }), [])
              const filter = Filter.gte("n", lost)
              assert.deepStrictEqual(yield* found({ limit: 1_000, filter }), all.slice(lost))
              assert.deepStrictEqual(yield* found({ limit: 3, filter }), all.slice(lost, lost + 3))
              const only = yield* store.query(name, {
                vector: [3, 4],
                limit: 2,
                filter: Filter.eq("n", lost),
                includeVector: true
              })
              assert.deepStrictEqual(
                only.map(({ distance, metric, score, ...rest }) => rest),
                records.slice(lost, lost + 1)
              )
              assert.closeTo(only[0]?.score ?? 0, 1, 1e-6)

              // an answer that is whole has one request after it, which says so; one that may not be the end has none
              const other = yield* collection(store, { dimensions: 2, metric: "l2" })
              yield* store.upsert(
                other,
                Array.from({ length: 30 }, (_, n) => ({ id: `n${n}`, vector: [n, 0], metadata: { n } }))
              )
              const requests = (query: Partial<VectorStore.Query>) =>
                Effect.gen(function* () {
                  const before = (yield* recording.spans).length
                  yield* recording.within(store.query(other, { vector: [0, 0], ...query }))
                  return (yield* recording.spans)
                    .slice(before)
                    .flatMap(({ name, parent }) => (parent._tag === "None" ? [name] : []))
                })
              assert.deepStrictEqual(yield* requests({ limit: 29 }), ["Chroma.query"])
              assert.deepStrictEqual(yield* requests({ limit: 30 }), ["Chroma.query", "Chroma.count"])
              assert.deepStrictEqual(yield* requests({ limit: 2, filter: Filter.gte("n", 3) }), ["Chroma.query"])
              assert.deepStrictEqual(yield* requests({ filter: Filter.eq("n", 3) }), ["Chroma.query", "Chroma.get"])
            }),
          60_000
        )

        it.scoped(
          "what goes, or does not pass any more, between two requests is not in the answer, and not deleted",
          () =>
            Effect.gen(function* () {
              const { url: there } = yield* TheServer
              const { store: other } = yield* connect()
              const bodies: Array<string> = []
              /** Done once, before the first request that is so. */
              let first: { readonly is: (path: string, body: string) => boolean; readonly done: Effect.Effect<unknown> }
              const nothing = { is: () => false, done: Effect.void }
              first = nothing
              const runPromise = Runtime.runPromise(yield* Effect.runtime())
              const { url } = yield* answering(async (path, body) => {
                if (first.is(path, body)) {
                  const { done } = first
                  first = nothing
                  await runPromise(done)
                }
                bodies.push(body)
                const answer = await fetch(`${there}${path}`, {
                  method: body === "" ? "GET" : "POST",
                  ...(body === "" ? {} : { headers: { "content-type": "application/json" }, body })
                })
                return [answer.status, await answer.json()]
              })
              const { store } = yield* Chroma.make({ url, plane: "internal" })
              const name = yield* collection(other)
              const fill = other.upsert(
                name,
                [1, 2, 3, 4].map((n) => ({ id: `n${n}`, vector: [n, 0], metadata: { n } }))
              )
              const changes = Effect.zipRight(
                other.upsert(name, [{ id: "n2", vector: [2, 0], metadata: { n: 7 } }]),
                other.delete(name, ["n3"])
              ).pipe(Effect.orDie)
              const found = (filter?: VectorStore.Filter.Filter) =>
                Effect.map(store.query(name, { vector: [0, 0], ...(filter === undefined ? {} : { filter }) }), ids)

              // by a filter that is applied here: the ids first, then what they are
              const wide = Filter.or(...Array.from({ length: 300 }, (_, n) => Filter.eq(`k${n}`, n)), Filter.lt("n", 5))
              yield* fill
              first = { is: (_, body) => body.includes('"embeddings"'), done: changes }
              assert.deepStrictEqual(yield* found(wide), ["n1", "n4"])

              // by one of the server: the index first, then what passes
              yield* fill
              first = { is: (path) => path.endsWith("/get"), done: changes }
              assert.deepStrictEqual(yield* found(Filter.lt("n", 5)), ["n1", "n4"])

              // by none: the index first, then how many there are
              yield* fill
              first = { is: (path) => path.endsWith("/count"), done: changes }
              assert.deepStrictEqual(yield* found(), ["n1", "n2", "n4"])
              assert.strictEqual(first, nothing)

              // pages and deletes by either: the ids first
              for (const filter of [wide, Filter.lt("n", 5)]) {
                yield* fill
                first = { is: (_, body) => body.includes('"embeddings"'), done: changes }
                assert.deepStrictEqual(ids([...(yield* Stream.runCollect(store.scroll(name, { filter })))]), [
                  "n1",
                  "n4"
                ])
              }
              yield* fill
              first = { is: (path) => path.endsWith("/delete"), done: changes }
              assert.strictEqual(yield* store.deleteWhere(name, Filter.lt("n", 4)), 3)
              assert.deepStrictEqual(ids(yield* other.get(name, ["n1", "n2", "n3", "n4"])), ["n2", "n4"])
              assert.strictEqual(first, nothing)
              // both in one request take the server seconds for a thousand ids
              assert.deepStrictEqual(
                bodies.filter((body) => body.includes('"ids":') && body.includes('"where":')),
                []
              )
            })
        )

        it.scoped("filters that the server breaks on are applied here", () =>
          Effect.gen(function* () {
            const { store } = yield* connect()
            const name = yield* collection(store)
            yield* store.upsert(
              name,
              [1, 2, 3].map((n) => ({ id: `n${n}`, vector: [n, 0], metadata: { n } }))
            )
            let deep = Filter.eq("n", 2)
            for (let depth = 0; depth < 60; depth++) {
              deep = depth % 2 === 0 ? Filter.and(Filter.gt("n", 0), deep) : Filter.or(Filter.eq("n", 7), deep)
            }
            const wide = Filter.or(...Array.from({ length: 3_000 }, (_, n) => Filter.eq(`k${n}`, n)), Filter.eq("n", 2))
            const long = Filter.in("n", Array.from({ length: 40_000 }, (_, n) => n + 2.5).concat(2))
            for (const filter of [deep, wide, long]) {
              assert.deepStrictEqual(ids(yield* store.query(name, { vector: [1, 0], filter })), ["n2"])
              assert.strictEqual(yield* store.count(name, Filter.not(filter)), 2)
              assert.strictEqual([...(yield* Stream.runCollect(store.scroll(name, { filter })))].length, 1)
            }
            assert.strictEqual(yield* store.deleteWhere(name, wide), 1)
            assert.strictEqual(yield* store.count(name), 2)
          })
        )
      })

      describe("planes", () => {
        it.scoped("internal: nothing is shown", () =>
          Effect.gen(function* () {
            const { health, store } = yield* connect()
            yield* Recording.assertSilent(
              Effect.gen(function* () {
                const name = yield* collection(store)
                yield* store.upsert(name, [{ id: "a", vector: [1, 0] }])
                yield* store.query(name, { vector: [1, 0] })
                yield* Stream.runDrain(store.scroll(name))
                yield* store.delete(name, ["a"])
                yield* Effect.flip(store.count("nowhere"))
                yield* health
              })
            )
          })
        )

        it.scoped("external: one span and one line a request, nothing that was written in them", () =>
          Effect.gen(function* () {
            const recording = yield* Recording.make
            const { store } = yield* connect({ plane: "external" })
            const name = yield* collection(store)
            yield* store.upsert(name, [{ id: "a", vector: [1, 0] }])
            yield* recording.within(
              Effect.gen(function* () {
                yield* store.upsert(name, [{ id: "secret-id", vector: [1, 0], document: "secret-text" }])
                yield* store.query(name, { vector: [1, 0], filter: Filter.ne("secret-key", "secret-value") })
              })
            )
            const spans = yield* recording.spans
            assert.deepStrictEqual(
              spans.filter(({ parent }) => parent._tag === "None").map(({ kind, name }) => [name, kind]),
              [
                ["Chroma.get", "client"],
                ["Chroma.upsert", "client"],
                ["Chroma.query", "client"],
                // that there are no more than the two which the query gave
                ["Chroma.get", "client"]
              ]
            )
            assert.strictEqual((yield* recording.lines).length, 4)
            const shown = JSON.stringify([spans, yield* recording.lines], (_, value) =>
              typeof value === "bigint" ? String(value) : value instanceof Map ? [...value] : value
            )
            assert.notInclude(shown, "secret-")
          })
        )
        it.scoped("external: a collection that is not there yet, or any more, is no failure in trace and log", () =>
          Effect.gen(function* () {
            const recording = yield* Recording.make
            const { store } = yield* connect({ plane: "external" })
            yield* recording.within(
              Effect.gen(function* () {
                const name = yield* collection(store)
                yield* store.dropCollection(name)
                assert.isFalse(yield* store.dropCollection(name))
                yield* Effect.flip(store.count(name))
              })
            )
            const spans = (yield* recording.spans).filter(({ parent }) => parent._tag === "None")
            assert.strictEqual(spans.length, 5)
            assert.isTrue(spans.every(({ status }) => status._tag === "Ended" && Exit.isSuccess(status.exit)))
            assert.isTrue((yield* recording.lines).every(({ level }) => level._tag === "Debug"))
          })
        )
      })

      describe("the suite of connections", () => {
        const suite = ConnectionSuite.suite({
          make: connect({ plane: "external", database: "default_database" }),
          ask: (store) => Effect.map(store.collections, (found) => found.length >= 0),
          expected: true,
          connecting: (mode) => connect({ plane: "external", connect: mode }),
          away: (mode) => Chroma.make({ url: "http://127.0.0.1:1", connect: mode }),
          impatient: connect({ plane: "external", drainTimeout: "200 millis" })
        })
        for (const one of suite.cases) it.effect(one.name, () => one.run, 30_000)
      })

      it.scoped("a kind of the registry, from configuration; every wrong and missing field at once", () =>
        Effect.gen(function* () {
          const { url } = yield* TheServer
          const provider = (entries: Readonly<Record<string, string>>) =>
            Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(entries))))
          const asked = Effect.gen(function* () {
            const connections = yield* Connections.make([Chroma.kind])
            const connection = yield* connections.get(Chroma.kind, "search")
            return yield* connection.use((store) => store.collections)
          })
          yield* provider({
            "connections.search.kind": "chromadb",
            "connections.search.url": url,
            "connections.search.plane": "internal",
            "connections.search.timeout": "20 seconds"
          })(asked)
          const wrong = yield* Effect.exit(
            provider({
              "connections.search.kind": "chromadb",
              "connections.search.plane": "sideways",
              "connections.search.tokenHeader": "cookie",
              "connections.search.maxConnections": "many"
            })(asked)
          )
          assert.isTrue(Exit.isFailure(wrong))
          for (const field of ["url", "plane", "tokenHeader", "maxConnections"]) assert.include(String(wrong), field)
        })
      )
    }
  )

  describe("faults", () => {
    it.scopedLive(
      "killed and started again, frozen, cut off: typed errors in time, and it works on",
      () =>
        Effect.gen(function* () {
          const server = yield* ChromaServer.make
          const proxy = yield* FaultProxy.make({ port: server.port })
          const { health, store } = yield* Chroma.make({
            url: `http://127.0.0.1:${proxy.port}`,
            plane: "internal",
            timeout: "2 seconds",
            healthTimeout: "200 millis"
          })
          yield* store.ensureCollection("faults", { dimensions: 2, metric: "l2" })
          yield* store.upsert("faults", [{ id: "a", vector: [1, 0] }])

          yield* proxy.resetAfter(0, { later: true })
          assert.strictEqual((yield* Effect.flip(store.count("faults"))).reason, "Unavailable")
          yield* proxy.calm
          yield* proxy.resetAll

          yield* server.freeze
          const [checked, result] = yield* Effect.timed(health)
          assert.strictEqual(result.status, "down")
          assert.isBelow(Duration.toMillis(checked), 1_250)
          const fiber = yield* Effect.fork(store.count("faults"))
          yield* until(proxy.counts, ({ open }) => open > 0)
          const [left] = yield* Effect.timed(Fiber.interrupt(fiber))
          assert.isBelow(Duration.toMillis(left), 300)
          const [waited, error] = yield* Effect.timed(Effect.flip(store.count("faults")))
          assert.strictEqual(error.reason, "Timeout")
          assert.isBelow(Duration.toMillis(waited), 4_000)
          yield* server.thaw
          yield* until(health, ({ status }) => status === "up")

          yield* server.kill
          assert.strictEqual((yield* Effect.flip(store.count("faults"))).reason, "Unavailable")
          yield* server.start
          assert.deepStrictEqual(yield* until(Effect.option(store.count("faults")), Option.isSome), Option.some(1))
        }),
      60_000
    )

    it.scopedLive("no socket is left after interrupted requests and the release", () =>
      Effect.gen(function* () {
        const server = yield* ChromaServer.make
        const proxy = yield* FaultProxy.make({ port: server.port })
        yield* Effect.scoped(
          Effect.gen(function* () {
            const { store } = yield* Chroma.make({ url: `http://127.0.0.1:${proxy.port}`, plane: "internal" })
            yield* store.ensureCollection("left", { dimensions: 2, metric: "l2" })
            for (let n = 0; n < 60; n++) {
              const fiber = yield* Effect.fork(store.upsert("left", [{ id: "a", vector: [1, n] }]))
              for (let turn = 0; turn < n % 9; turn++) yield* Effect.yieldNow()
              yield* Fiber.interrupt(fiber)
            }
            yield* store.count("left")
          })
        )
        assert.strictEqual((yield* until(proxy.counts, ({ open }) => open === 0)).open, 0)
      })
    )
  })
})

/** Answers as it is told. */
const answering = (
  answer: (path: string, body: string) => readonly [number, unknown] | Promise<readonly [number, unknown]>
) =>
  Effect.acquireRelease(
    Effect.promise(
      () =>
        new Promise<{
          readonly url: string
          readonly seen: Array<Http.IncomingHttpHeaders>
          readonly server: Http.Server
        }>((resolve) => {
          const seen: Array<Http.IncomingHttpHeaders> = []
          const server = Http.createServer((request, response) => {
            seen.push(request.headers)
            const parts: Array<Buffer> = []
            request.on("data", (part: Buffer) => parts.push(part))
            request.on("end", async () => {
              const [status, body] = await answer(request.url ?? "", Buffer.concat(parts).toString())
              response.writeHead(status, { "content-type": "application/json", "retry-after": "7" })
              response.end(JSON.stringify(body))
            })
          })
          server.listen(0, "127.0.0.1", () => {
            const address = server.address()
            const port = typeof address === "object" && address !== null ? address.port : 0
            resolve({ url: `http://127.0.0.1:${port}`, seen, server })
          })
        })
    ),
    ({ server }) =>
      Effect.promise(
        () =>
          new Promise<void>((resolve) => {
            server.closeAllConnections()
            server.close(() => resolve())
          })
      )
  )

describe("Chroma, answers as the server gives them", () => {
  it.scopedLive("a token goes along with every request, as the server wants it, and is never shown", () =>
    Effect.gen(function* () {
      const { seen, url } = yield* answering((path) => [200, path.endsWith("/collections") ? [] : { name: "x" }])
      const token = Redacted.make("the-token")
      const first = yield* Chroma.make({ url, token, plane: "internal" })
      yield* first.store.collections
      assert.isTrue(seen.every((headers) => headers["x-chroma-token"] === "the-token"))
      seen.length = 0
      const second = yield* Chroma.make({ url, token, tokenHeader: "authorization", plane: "internal" })
      yield* second.store.collections
      assert.isTrue(seen.length > 0 && seen.every((headers) => headers["authorization"] === "Bearer the-token"))
    })
  )

  it.scopedLive(
    "an index that has lost records: what passes is read by pages, and no more than a hundred thousand",
    () =>
      Effect.gen(function* () {
        const { Filter } = VectorStore
        const dimensions = 2_000
        const there = { count: 0, given: 0 }
        const asked: Array<{ readonly path: string; readonly rows: number }> = []
        const vector = Array.from({ length: dimensions }, () => 0)
        const textsOf = (count: number) => Array.from({ length: count }, (_, n) => `n${n}`)
        /** A server whose index gives so many of the records that it has. */
        const { url } = yield* answering((path, body) => {
          const request = body === "" ? {} : JSON.parse(body)
          const rowsOf = (ids: ReadonlyArray<string>) => {
            asked.push({ path: path.slice(path.lastIndexOf("/") + 1), rows: ids.length })
            return {
              ids,
              metadatas: request.include.includes("metadatas") ? ids.map(() => ({ n: 1 })) : null,
              embeddings: request.include.includes("embeddings") ? ids.map(() => vector) : null
            }
          }
          if (path.endsWith("/count")) return [200, there.count]
          if (path.endsWith("/query")) {
            const { ids, metadatas } = rowsOf(textsOf(Math.min(there.given, request.n_results)))
            return [200, { ids: [ids], metadatas: [metadatas], distances: [ids.map(() => 0)] }]
          }
          if (path.endsWith("/get")) {
            const ids = request.ids ?? textsOf(Math.min(there.count, request.limit ?? there.count))
            return [200, rowsOf(ids)]
          }
          return [
            200,
            { id: "uuid", name: "lost", dimension: dimensions, configuration_json: { hnsw: { space: "l2" } } }
          ]
        })
        const { store } = yield* Chroma.make({ url, plane: "internal", connect: "lazy" })
        const query = (limit: number, filter?: VectorStore.Filter.Filter) => {
          asked.length = 0
          return store.query("lost", { vector, limit, ...(filter === undefined ? {} : { filter }) })
        }
        const filter = Filter.eq("n", 1)

        // few of many: no more ids than may be read are asked for, and that there are more is said
        Object.assign(there, { count: 300_000, given: 3 })
        for (const each of [filter, undefined]) {
          const error = yield* Effect.flip(query(10, each))
          assert.strictEqual(error.reason, "Unsupported")
          assert.include(error.description, "100000")
          assert.isAtMost(Math.max(...asked.map(({ rows }) => rows)), 100_001)
        }
        // as many as are wanted, of many: what the index gives is taken
        Object.assign(there, { given: 10 })
        assert.strictEqual((yield* query(10, filter)).length, 10)
        assert.isAtMost(Math.max(...asked.map(({ rows }) => rows)), 20_011)
        // of fewer all are read, of long vectors few at once
        Object.assign(there, { count: 1_200, given: 3 })
        for (const each of [filter, undefined]) {
          assert.strictEqual((yield* query(10, each)).length, 10)
          const pages = asked.slice(-3)
          assert.deepStrictEqual(pages, [
            { path: "get", rows: 500 },
            { path: "get", rows: 500 },
            { path: "get", rows: 200 }
          ])
        }
        // a filter that is applied here reads no more than that, either
        const wide = Filter.or(...Array.from({ length: 300 }, (_, n) => Filter.eq(`k${n}`, n)), filter)
        Object.assign(there, { count: 100_001 })
        assert.strictEqual((yield* Effect.flip(query(10, wide))).reason, "Unsupported")
        assert.isAtMost(asked.length, 52)
      }),
    60_000
  )

  it.scopedLive("statuses become reasons of the port, and nothing that was sent is repeated", () =>
    Effect.gen(function* () {
      let next: readonly [number, unknown] = [200, {}]
      const { url } = yield* answering(() => next)
      const { store } = yield* Chroma.make({ url, plane: "internal", connect: "lazy" })
      for (const [status, error, reason] of [
        [400, "InvalidArgumentError", "InvalidRequest"],
        [401, "AuthError", "Authentication"],
        [403, "Forbidden", "PermissionDenied"],
        [413, "x", "InvalidRequest"],
        [422, "ChromaError", "InvalidRequest"],
        [429, "RateLimit", "Throttled"],
        [500, "InternalError", "Unavailable"],
        [503, "x", "Throttled"]
      ] as const) {
        next = [status, { error, message: "it was secret-text" }]
        const failure = yield* Effect.flip(store.collections)
        assert.strictEqual(failure.reason, reason)
        assert.notInclude(`${failure.message} ${JSON.stringify(failure)}`, "secret-text")
        if (reason === "Throttled") assert.strictEqual(Duration.toSeconds(failure.retryAfter ?? 0), 7)
      }
      next = [404, { error: "NotFoundError", message: "Collection [x] does not exists" }]
      assert.strictEqual((yield* Effect.flip(store.count("abc"))).reason, "CollectionNotFound")
      next = [200, { hello: "world" }]
      assert.strictEqual((yield* Effect.flip(store.count("abc"))).reason, "Unknown")
      assert.strictEqual((yield* Effect.flip(Chroma.make({ url }))).reason, "InvalidSettings")
    })
  )
})
