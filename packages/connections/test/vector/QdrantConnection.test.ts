import * as Path from "node:path"
import { assert, describe, it, layer } from "@effect/vitest"
import { Connections, VectorStore } from "@underlay/core"
import { ConnectionSuite, Recording, Suite, VectorStoreSuite } from "@underlay/core/testing"
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
  Schedule,
  Stream
} from "effect"
import * as FastCheck from "effect/FastCheck"
import { Qdrant } from "../../src/index.ts"
import * as Double from "./QdrantDouble.ts"

type Store = Qdrant.QdrantConnection["store"]

const openapi = Path.join(Need.sharedData, "openapi", "qdrant.json")

const double = (options: Partial<Double.Options> = {}) =>
  Effect.acquireRelease(
    Effect.promise(() => Double.make({ openapi, ...options })),
    (it) => Effect.promise(it.close)
  )

const connect = (it: Double.QdrantDouble, settings: Partial<Qdrant.QdrantSettings> = {}) =>
  Qdrant.make({ url: it.url, plane: "internal", ...settings })

const { Filter } = VectorStore

const shape = { dimensions: 2, metric: "cosine" } as const

const until = <A, E>(effect: Effect.Effect<A, E>, what: (value: A) => boolean) =>
  Effect.filterOrFail(effect, what, () => "not yet" as const).pipe(
    Effect.retry({ schedule: Schedule.spaced("10 millis"), times: 300, while: (error) => error === "not yet" })
  )

class TheDouble extends Context.Tag("test/QdrantDouble")<TheDouble, Double.QdrantDouble>() {}

const hashed = /^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

describe.skipIf(Need.missing("openapi"))(Need.title("Qdrant as a connection, on the double", "openapi"), () => {
  describe("requests", () => {
    it.scopedLive("writes by one request, waits for it, and reads by one", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there)
        yield* store.ensureCollection("one", shape)
        yield* store.upsert("one", [{ id: "a", vector: [1, 0], metadata: { n: 1 } }])
        there.seen.length = 0
        yield* store.upsert("one", [{ id: "b", vector: [0, 1] }])
        yield* store.query("one", { vector: [1, 0] })
        yield* store.get("one", ["a"])
        yield* store.count("one", Filter.gt("n", 0))
        assert.deepStrictEqual(
          there.seen.map(({ method, path, query }) => `${method} ${path}${query}`),
          [
            "PUT /collections/one/points?wait=true",
            "POST /collections/one/points/query",
            "POST /collections/one/points",
            "POST /collections/one/points/count"
          ]
        )
        assert.deepStrictEqual(there.violations, [])
      })
    )

    it.scopedLive("ids are UUIDs of version 5, the id itself is in the payload (qdrant-client#293)", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there)
        yield* store.ensureCollection("ids", shape)
        const uuid = "b7c3f0de-4a7b-4a44-9d4e-0c2a1f6f7a10"
        yield* store.upsert(
          "ids",
          ["a", "7", uuid].map((id) => ({ id, vector: [1, 0] }))
        )
        for (const [id, { payload }] of there.collections.get("ids")?.points ?? []) {
          assert.match(String(id), hashed)
          assert.include(["a", "7", uuid], payload["_id"])
        }
        assert.strictEqual(yield* store.delete("ids", ["a", "7", uuid]), 3)
      })
    )

    it.scopedLive("native ids: whole numbers and UUIDs are the points' own, others are hashed", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there, { ids: "native" })
        yield* store.ensureCollection("ids", shape)
        const uuid = "b7c3f0de-4a7b-4a44-9d4e-0c2a1f6f7a10"
        const ids = ["7", uuid, "007", uuid.toUpperCase(), "-1", "1.5", "9007199254740991", "9007199254740993", "text"]
        yield* store.upsert(
          "ids",
          ids.map((id) => ({ id, vector: [1, 0] }))
        )
        const points = [...(there.collections.get("ids")?.points.keys() ?? [])]
        assert.includeMembers(points, [7, uuid, 9007199254740991])
        assert.strictEqual(points.filter((id) => hashed.test(String(id))).length, 6)
        assert.deepStrictEqual(
          (yield* store.get("ids", ids)).map(({ id }) => id),
          ids
        )
        assert.deepStrictEqual(
          [...(yield* Stream.runCollect(store.scroll("ids", { pageSize: 2 })))].map(({ id }) => id).sort(),
          [...ids].sort()
        )
        assert.deepStrictEqual(there.violations, [])
      })
    )

    it.scopedLive("a record with another id under the same hash is noticed", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there)
        yield* store.ensureCollection("ids", shape)
        yield* store.upsert("ids", [{ id: "a", vector: [1, 0] }])
        const points = there.collections.get("ids")?.points
        for (const [id, point] of points ?? [])
          points?.set(id, { ...point, payload: { ...point.payload, _id: "other" } })
        assert.strictEqual((yield* Effect.flip(store.get("ids", ["a"]))).reason, "Unknown")
      })
    )

    it.scopedLive("a vector comes back as it was written, though the server makes its length one", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there)
        yield* store.ensureCollection("cosine", { dimensions: 3, metric: "cosine" })
        const vectors = [
          [3, 4, 12],
          [1e-6, 2e-6, 3e-6],
          [4e17, -3e18, 1],
          [0.6, 0.8, 0]
        ].map((vector) => vector.map(Math.fround))
        yield* store.upsert(
          "cosine",
          vectors.map((vector, n) => ({ id: `v${n}`, vector }))
        )
        assert.deepStrictEqual(
          (yield* store.get("cosine", ["v0", "v1", "v2", "v3"])).map(({ vector }) => vector),
          vectors
        )
        const found = yield* store.query("cosine", { vector: [1e-6, 2e-6, 3e-6], includeVector: true })
        assert.deepStrictEqual([found[0]?.id, found[0]?.vector], ["v1", vectors[1]])
        assert.closeTo(found[0]?.score ?? 0, 1, 1e-6)
        // what has the length one already is not kept twice
        const payloads = [...(there.collections.get("cosine")?.points.values() ?? [])].map(({ payload }) => payload)
        assert.strictEqual(payloads.filter((payload) => "_vector" in payload || "_scale" in payload).length, 3)
        // and is not sent along where nobody asked for it
        there.seen.length = 0
        yield* store.query("cosine", { vector: [1, 0, 0] })
        assert.deepInclude(there.seen[0]?.body, {
          with_payload: { exclude: ["_vector", "_scale"] },
          with_vector: false
        })
      })
    )

    it.scopedLive("vectors of any length and size come back to the bit, and mostly need a sixteenth beside them", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there)
        const component = FastCheck.oneof(
          { weight: 6, arbitrary: FastCheck.float({ min: -1, max: 1, noNaN: true }) },
          { weight: 1, arbitrary: FastCheck.constantFrom(0, -0, 1.401298464324817e-45, -1.1754943508222875e-38) },
          { weight: 1, arbitrary: FastCheck.float({ min: -(2 ** 56), max: 2 ** 56, noNaN: true }) }
        )
        for (const [dimensions, numRuns] of [
          [1, 30],
          [3, 200],
          [17, 200],
          [384, 40]
        ] as const) {
          const name = `cosine${dimensions}`
          yield* store.ensureCollection(name, { dimensions, metric: "cosine" })
          const vectors = FastCheck.sample(
            FastCheck.array(component, { minLength: dimensions, maxLength: dimensions }).filter((vector) =>
              vector.some((value) => Math.abs(value) > 1e-15)
            ),
            { numRuns, seed: 11 }
          )
          const records = vectors.map((vector, n) => ({ id: `v${n}`, vector }))
          yield* store.upsert(name, records)
          const back = yield* store.get(
            name,
            records.map(({ id }) => id)
          )
          const bits = (vector: ReadonlyArray<number>) => [...new Int32Array(Float32Array.from(vector).buffer)]
          // of a vector that is kept once the server loses the sign of a zero: JSON has none
          const positive = (vector: ReadonlyArray<number>) => vector.map((value) => (value === 0 ? 0 : value))
          for (const [n, { vector }] of back.entries()) {
            const wanted = vectors[n] ?? []
            const once = Math.abs(wanted.reduce((sum, value) => sum + value * value, 0) - 1) < 1e-6
            assert.deepStrictEqual(bits(once ? positive(vector) : vector), bits(once ? positive(wanted) : wanted))
          }
        }
        const usual = FastCheck.sample(
          FastCheck.array(
            FastCheck.integer({ min: -99_991, max: 99_991 }).map((n) => n / 99_991),
            { minLength: 384, maxLength: 384 }
          ),
          { numRuns: 50, seed: 12 }
        )
        yield* store.upsert(
          "cosine384",
          usual.map((vector, n) => ({ id: `usual${n}`, vector }))
        )
        const payloads = [...(there.collections.get("cosine384")?.points.values() ?? [])]
          .map(({ payload }) => payload)
          .filter(({ _id }) => String(_id).startsWith("usual"))
        const small = payloads.filter(({ _scale }) => typeof _scale === "string" && _scale.length < 140)
        assert.isAtLeast(small.length / payloads.length, 0.9)
        const found = yield* store.query("cosine384", { vector: usual[7] ?? [], limit: 1, includeVector: true })
        assert.deepStrictEqual([found[0]?.id, found[0]?.vector], ["usual7", usual[7]?.map(Math.fround)])
        assert.deepStrictEqual(there.violations, [])
      })
    )

    it.scopedLive("embeddings of length one come back to the bit, in whatever order the server adds up", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there)
        const dimensions = 3_072
        yield* store.ensureCollection("long", { dimensions, metric: "cosine" })
        const vectors = FastCheck.sample(
          FastCheck.array(FastCheck.double({ min: -1, max: 1, noNaN: true }), {
            minLength: dimensions,
            maxLength: dimensions,
            size: "max"
          }),
          { numRuns: 30, seed: 13 }
        ).map((vector) => {
          const length = Math.hypot(...vector)
          return vector.map((value) => Math.fround(value / length))
        })
        yield* store.upsert(
          "long",
          vectors.map((vector, n) => ({ id: `v${n}`, vector }))
        )
        const back = yield* store.get(
          "long",
          vectors.map((_, n) => `v${n}`)
        )
        assert.deepStrictEqual(
          back.filter(({ vector }, n) => vector.some((value, i) => value !== vectors[n]?.[i])).map(({ id }) => id),
          []
        )
      })
    )

    it.scopedLive("no request is larger than batchBytes, in any script", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there, { batchBytes: 50_000 })
        yield* store.ensureCollection("script", shape)
        for (const text of ["语".repeat(8_000), '"\n'.repeat(4_000), "😀".repeat(5_000)]) {
          there.seen.length = 0
          yield* store.upsert(
            "script",
            Array.from({ length: 8 }, (_, n) => ({ id: `r${n}`, vector: [1, 0], document: text, metadata: { text } }))
          )
          assert.isAtMost(Math.max(...there.seen.map(({ bytes }) => bytes)), 60_000)
        }
        for (const text of ["语".repeat(5_000), "😀".repeat(5_000)]) {
          there.seen.length = 0
          yield* store.upsert(
            "script",
            Array.from({ length: 8 }, (_, n) => ({ id: `r${n}`, vector: [1, 0], document: text }))
          )
          assert.isAtMost(Math.max(...there.seen.map(({ bytes }) => bytes)), 50_000)
        }
      })
    )

    it.scopedLive("batches are cut by count and by bytes; a failure says how much is written", () =>
      Effect.gen(function* () {
        const there = yield* double({ maxBody: 100_000 })
        const { store } = yield* connect(there, { batchSize: 40, batchBytes: 50_000 })
        yield* store.ensureCollection("cut", shape)
        const record = (n: number, size = 0) => ({ id: `r${n}`, vector: [1, n], document: "ü".repeat(size) })
        there.seen.length = 0
        yield* store.upsert(
          "cut",
          Array.from({ length: 100 }, (_, n) => record(n))
        )
        assert.deepStrictEqual(
          there.seen
            .filter(({ method }) => method === "PUT")
            .map(({ body }) => (body as { points: Array<unknown> }).points.length),
          [40, 40, 20]
        )
        there.seen.length = 0
        yield* store.upsert(
          "cut",
          Array.from({ length: 8 }, (_, n) => record(n, 10_000))
        )
        assert.isTrue(there.seen.every(({ bytes }) => bytes < 60_000))
        there.fail({ status: 500, when: ({ body }) => JSON.stringify(body).includes('"r50"') })
        const error = yield* Effect.flip(
          store.upsert(
            "cut",
            Array.from({ length: 100 }, (_, n) => record(n))
          )
        )
        assert.include(error.description, "the first 40 of 100 records are written")
        const large = yield* Effect.flip(store.upsert("cut", [record(1, 100_000)]))
        assert.deepStrictEqual(
          [large.reason, large.description],
          ["InvalidRequest", "the request is too large for the server: lower batchBytes"]
        )
      })
    )

    it.scopedLive("a write that is accepted and not done is no success", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there)
        yield* store.ensureCollection("later", shape)
        for (const status of ["acknowledged", "wait_timeout"]) {
          there.fail({
            status: 200,
            when: ({ path }) => path.endsWith("/points"),
            body: { result: { operation_id: 1, status }, status: "ok", time: 1 }
          })
          assert.strictEqual(
            (yield* Effect.flip(store.upsert("later", [{ id: "a", vector: [1, 0] }]))).reason,
            "Timeout"
          )
        }
      })
    )

    it.scopedLive("minScore becomes the server's threshold: a least score, for Euclid a greatest distance", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there)
        const thresholds: Array<unknown> = []
        for (const metric of ["cosine", "l2", "dot"] as const) {
          const name = `by-${metric}`
          yield* store.ensureCollection(name, { dimensions: 2, metric })
          yield* store.upsert(name, [{ id: "a", vector: [1, 0] }])
          for (const minScore of [0.5, 2, 0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
            there.seen.length = 0
            const found = yield* store.query(name, { vector: [1, 0], minScore })
            assert.strictEqual(found.length, minScore > 1 ? 0 : 1)
            const body = there.seen[0]?.body
            thresholds.push(
              typeof body === "object" && body !== null && "score_threshold" in body ? body.score_threshold : undefined
            )
          }
        }
        const rounded = thresholds.map((each) => (typeof each === "number" ? Math.round(each * 100) / 100 : each))
        assert.deepStrictEqual(rounded, [
          0.5,
          2,
          -0,
          undefined,
          undefined,
          1,
          0,
          undefined,
          0,
          undefined,
          0.5,
          2,
          -0,
          undefined,
          undefined
        ])
      })
    )

    it.scopedLive("equal scores are cut by id, wherever the server cuts; it is asked again only then", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there)
        yield* store.ensureCollection("ties", shape)
        const ids = Array.from({ length: 60 }, (_, n) => `t${String(n).padStart(2, "0")}`)
        yield* store.upsert(
          "ties",
          ids.map((id) => ({ id, vector: [1, 0] }))
        )
        yield* store.upsert("ties", [{ id: "z", vector: [0, 1] }])
        there.seen.length = 0
        assert.deepStrictEqual(
          (yield* store.query("ties", { vector: [1, 0], limit: 3 })).map(({ id }) => id),
          ids.slice(0, 3)
        )
        assert.isAbove(there.seen.length, 1)
        there.seen.length = 0
        assert.strictEqual((yield* store.query("ties", { vector: [0, 1], limit: 1 }))[0]?.id, "z")
        assert.strictEqual(there.seen.length, 1)
      })
    )

    it.scopedLive("an index of the collection: none for exact, its numbers for hnsw, efSearch with the queries", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there)
        yield* store.ensureCollection("exact", shape, { index: { kind: "exact" } })
        yield* store.ensureCollection("hnsw", shape, {
          index: { kind: "hnsw", m: 8, efConstruction: 50, efSearch: 77 }
        })
        const config = (name: string) => there.collections.get(name)?.config["hnsw_config"]
        assert.deepInclude(config("exact"), { m: 0 })
        assert.deepInclude(config("hnsw"), { m: 8, ef_construct: 50 })
        there.seen.length = 0
        yield* store.query("hnsw", { vector: [1, 0] })
        assert.deepInclude(there.seen.at(-1)?.body, { params: { hnsw_ef: 77 } })
        const { store: exact } = yield* connect(there, { exact: true })
        yield* exact.query("hnsw", { vector: [1, 0] })
        assert.deepInclude(there.seen.at(-1)?.body, { params: { exact: true } })
        assert.isTrue(exact.capabilities.exact)
        assert.deepStrictEqual(there.violations, [])
      })
    )

    it.scopedLive("indexes of metadata are made with the collection, and where they are missing", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const payloadIndexes = { kind: "keyword", "a.b": "number", open: "boolean" } as const
        const { store } = yield* connect(there)
        yield* store.ensureCollection("indexed", shape)
        const { store: indexing } = yield* connect(there, { payloadIndexes })
        yield* indexing.ensureCollection("indexed", shape)
        assert.deepStrictEqual(Object.fromEntries(there.collections.get("indexed")?.indexes ?? []), {
          "metadata.kind": "keyword",
          'metadata."a.b"': "float",
          "metadata.open": "bool"
        })
        there.seen.length = 0
        yield* indexing.ensureCollection("indexed", shape)
        assert.strictEqual(there.seen.length, 1)
        assert.deepStrictEqual(there.violations, [])
      })
    )

    it.scopedLive("what another made of a collection is found out, whatever was known of it", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there)
        const { store: other } = yield* connect(there)
        yield* store.ensureCollection("shared", shape)
        yield* store.upsert("shared", [{ id: "a", vector: [1, 0] }])
        yield* other.dropCollection("shared")
        assert.strictEqual(
          (yield* Effect.flip(store.upsert("shared", [{ id: "a", vector: [1, 0] }]))).reason,
          "CollectionNotFound"
        )
        yield* other.ensureCollection("shared", { dimensions: 2, metric: "dot" })
        yield* store.upsert("shared", [{ id: "a", vector: [1, 0] }])
        yield* other.dropCollection("shared")
        yield* other.ensureCollection("shared", { dimensions: 3, metric: "dot" })
        // of vectors that fit what was known the server says that they do not fit
        assert.strictEqual(
          (yield* Effect.flip(store.upsert("shared", [{ id: "b", vector: [1, 0] }]))).reason,
          "DimensionMismatch"
        )
        yield* store.upsert("shared", [{ id: "b", vector: [1, 0, 0] }])
        assert.strictEqual((yield* store.query("shared", { vector: [2, 0, 0] }))[0]?.score, 2)
      })
    )

    it.scopedLive("collections that other programs made are left out of the list, and are Unsupported", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there)
        yield* store.ensureCollection("mine", shape)
        const mine = there.collections.get("mine")
        if (mine === undefined) return assert.fail("it is not there")
        there.collections.set("named", {
          ...mine,
          config: { ...mine.config, params: { vectors: { image: { size: 2, distance: "Dot" } } } }
        })
        assert.deepStrictEqual(yield* store.collections, [{ name: "mine", ...shape }])
        assert.strictEqual((yield* Effect.flip(store.query("named", { vector: [1, 0] }))).reason, "Unsupported")
      })
    )

    it.scopedLive("points of other programs are read: what is no metadata is left out", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there)
        yield* store.ensureCollection("foreign", { dimensions: 2, metric: "dot" })
        there.collections.get("foreign")?.points.set(7, {
          id: 7,
          vector: Float32Array.of(1, 0),
          payload: { city: "Berlin", metadata: { a: 1, list: [1, 2], none: null, deep: { x: 1 } } }
        })
        assert.deepStrictEqual(
          [...(yield* Stream.runCollect(store.scroll("foreign")))],
          [{ id: "7", vector: [1, 0], metadata: { a: 1 } }]
        )
        assert.strictEqual((yield* store.query("foreign", { vector: [1, 0] }))[0]?.id, "7")
      })
    )
  })

  describe("errors", () => {
    it.scopedLive("the key goes along with every request; a wrong one is Authentication", () =>
      Effect.gen(function* () {
        const there = yield* double({ apiKey: "right" })
        const { store } = yield* connect(there, { apiKey: Redacted.make("right") })
        yield* store.ensureCollection("keyed", shape)
        assert.isTrue(there.seen.every(({ headers }) => headers["api-key"] === "right"))
        const error = yield* Effect.flip(connect(there, { apiKey: Redacted.make("a-wrong-key") }))
        assert.strictEqual(error.reason, "Authentication")
        assert.notInclude(JSON.stringify(error), "a-wrong-key")
        const lazy = yield* connect(there, { connect: "lazy" })
        assert.strictEqual((yield* Effect.flip(lazy.store.collections)).reason, "Authentication")
        assert.strictEqual((yield* lazy.health).status, "down")
      })
    )

    it.scopedLive("statuses become reasons of the port; what the server repeats of a request is not shown", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* connect(there)
        yield* store.ensureCollection("errors", shape)
        const cases = [
          [400, {}, "InvalidRequest"],
          [401, {}, "Authentication"],
          [403, {}, "PermissionDenied"],
          [408, {}, "Timeout"],
          [429, { "retry-after": "7" }, "Throttled"],
          [500, {}, "Unavailable"],
          [503, {}, "Unavailable"],
          [503, { "retry-after": "7" }, "Throttled"],
          [507, {}, "Unavailable"]
        ] as const
        for (const [status, headers, reason] of cases) {
          there.fail({
            status,
            headers,
            body: { status: { error: "Format error in JSON body: secret-text" }, time: 0 }
          })
          const error = yield* Effect.flip(store.count("errors", Filter.eq("k", "secret-text")))
          assert.strictEqual(error.reason, reason)
          assert.notInclude(`${error.message} ${JSON.stringify(error)}`, "secret-text")
          if (reason === "Throttled") assert.strictEqual(Duration.toSeconds(error.retryAfter ?? 0), 7)
        }
        there.fail({ status: 404, body: { status: { error: "Not found: something else" } } })
        assert.strictEqual((yield* Effect.flip(store.count("errors"))).reason, "InvalidRequest")
        there.fail({ status: 200, body: { result: [], status: "ok" } })
        assert.strictEqual((yield* Effect.flip(store.count("errors"))).reason, "Unknown")
      })
    )

    it.scopedLive("what answers and is not Qdrant is InvalidSettings, nobody there Unavailable", () =>
      Effect.gen(function* () {
        const there = yield* double()
        there.fail({ status: 200, body: { hello: "world" } })
        assert.strictEqual((yield* Effect.flip(connect(there))).reason, "InvalidSettings")
        assert.strictEqual((yield* Effect.flip(Qdrant.make({ url: "http://127.0.0.1:1" }))).reason, "Unavailable")
        assert.strictEqual((yield* Effect.flip(Qdrant.make({ url: "no address" }))).reason, "InvalidSettings")
        assert.strictEqual((yield* Effect.flip(connect(there, { batchSize: 0 }))).reason, "InvalidSettings")
      })
    )

    it.scopedLive("a server that falls silent, resets and comes back; an interruption closes the request", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const proxy = yield* FaultProxy.make({ port: there.port })
        const { health, store } = yield* Qdrant.make({
          url: `http://127.0.0.1:${proxy.port}`,
          plane: "internal",
          timeout: "300 millis",
          healthTimeout: "200 millis"
        })
        yield* store.ensureCollection("faults", shape)
        yield* store.upsert("faults", [{ id: "a", vector: [1, 0] }])
        yield* proxy.blackhole(true)
        const [waited, error] = yield* Effect.timed(Effect.flip(store.query("faults", { vector: [1, 0] })))
        assert.strictEqual(error.reason, "Timeout")
        assert.isBelow(Duration.toMillis(waited), 1_500)
        const [checked, result] = yield* Effect.timed(health)
        assert.strictEqual(result.status, "down")
        assert.isBelow(Duration.toMillis(checked), 1_250)
        const fiber = yield* Effect.fork(store.query("faults", { vector: [1, 0] }))
        yield* until(proxy.counts, ({ open }) => open > 0)
        const [left] = yield* Effect.timed(Fiber.interrupt(fiber))
        assert.isBelow(Duration.toMillis(left), 200)
        yield* proxy.blackhole(false)
        yield* proxy.resetAll
        assert.strictEqual(
          (yield* until(Effect.either(store.count("faults")), (it) => it._tag === "Right"))._tag,
          "Right"
        )
        yield* proxy.resetAfter(0, { later: true })
        const reset = yield* Effect.flip(store.count("faults"))
        assert.strictEqual(reset.reason, "Unavailable")
        yield* proxy.calm
        yield* proxy.resetAll
        assert.deepStrictEqual(yield* until(Effect.option(store.count("faults")), Option.isSome), Option.some(1))
      })
    )

    it.scopedLive("no socket is left after 100 interrupted requests and the release", () =>
      Effect.gen(function* () {
        const there = yield* double()
        yield* Effect.scoped(
          Effect.gen(function* () {
            const { store } = yield* connect(there)
            yield* store.ensureCollection("left", shape)
            for (let n = 0; n < 100; n++) {
              const fiber = yield* Effect.fork(store.upsert("left", [{ id: "a", vector: [1, n] }]))
              for (let turn = 0; turn < n % 7; turn++) yield* Effect.yieldNow()
              yield* Fiber.interrupt(fiber)
            }
            yield* store.count("left")
          })
        )
        assert.strictEqual(yield* until(Effect.sync(there.sockets), (count) => count === 0), 0)
      })
    )
  })

  describe("planes", () => {
    it.scopedLive("internal: nothing is shown, nothing is sent twice", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { health, store } = yield* connect(there)
        const all = Effect.gen(function* () {
          yield* store.ensureCollection("silent", shape)
          yield* store.upsert("silent", [{ id: "a", vector: [1, 0] }])
          yield* store.query("silent", { vector: [1, 0] })
          yield* Stream.runDrain(store.scroll("silent"))
          yield* store.delete("silent", ["a"])
          there.fail({ status: 503 })
          yield* Effect.flip(store.count("silent"))
          yield* store.dropCollection("silent")
          yield* health
        })
        yield* Recording.assertSilent(all)
        assert.isTrue(there.seen.every(({ headers }) => headers["traceparent"] === undefined))
      })
    )

    it.scopedLive("external: one span and one line a request, retries inside, no document in them", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const recording = yield* Recording.make
        const { store } = yield* Qdrant.make({ url: there.url, plane: "external" })
        yield* store.ensureCollection("watched", shape)
        yield* store.upsert("watched", [{ id: "a", vector: [1, 0] }])
        there.fail({ status: 503, headers: { "retry-after": "0" } })
        yield* recording.within(
          Effect.gen(function* () {
            yield* store.upsert("watched", [{ id: "secret-id", vector: [1, 0], document: "secret-text" }])
            yield* store.query("watched", { vector: [1, 0], filter: Filter.ne("secret-key", "secret-value") })
          })
        )
        const spans = yield* recording.spans
        assert.deepStrictEqual(
          spans.filter(({ parent }) => parent._tag === "None").map(({ kind, name }) => [name, kind]),
          [
            ["Qdrant.upsert", "client"],
            ["Qdrant.query", "client"]
          ]
        )
        assert.strictEqual((yield* recording.lines).length, 2)
        assert.strictEqual(there.seen.filter(({ body }) => JSON.stringify(body).includes("secret-text")).length, 2)
        const shown = JSON.stringify([spans, yield* recording.lines], (_, value) =>
          typeof value === "bigint" ? String(value) : value instanceof Map ? [...value] : value
        )
        assert.notInclude(shown, "secret-")
      })
    )

    it.scopedLive("external: a collection that is not there yet is no failure in trace and log", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const recording = yield* Recording.make
        const { store } = yield* Qdrant.make({ url: there.url, plane: "external" })
        yield* recording.within(
          Effect.zipRight(Effect.flip(store.query("nowhere", { vector: [1, 0] })), store.ensureCollection("new", shape))
        )
        assert.isTrue(
          (yield* recording.spans)
            .filter(({ parent }) => parent._tag === "None")
            .every(({ status }) => status._tag === "Ended" && Exit.isSuccess(status.exit))
        )
        assert.isTrue((yield* recording.lines).every(({ level }) => level._tag === "Debug"))
      })
    )

    it.scopedLive("external: a collection is not dropped twice, which would say that there was none", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* Qdrant.make({ url: there.url, plane: "external" })
        yield* store.ensureCollection("once", shape)
        there.fail({ status: 503, served: true, when: ({ method }) => method === "DELETE" })
        there.seen.length = 0
        assert.strictEqual((yield* Effect.flip(store.dropCollection("once"))).reason, "Unavailable")
        assert.strictEqual(there.seen.length, 1)
      })
    )

    it.scopedLive("external: a deletion by filter is not sent twice", () =>
      Effect.gen(function* () {
        const there = yield* double()
        const { store } = yield* Qdrant.make({ url: there.url, plane: "external" })
        yield* store.ensureCollection("once", shape)
        yield* store.upsert("once", [{ id: "a", vector: [1, 0], metadata: { old: true } }])
        there.fail({ status: 503, served: true, when: ({ path }) => path.endsWith("/delete") })
        there.seen.length = 0
        assert.strictEqual(
          (yield* Effect.flip(store.deleteWhere("once", Filter.eq("old", true)))).reason,
          "Unavailable"
        )
        assert.strictEqual(there.seen.filter(({ path }) => path.endsWith("/delete")).length, 1)
      })
    )
  })

  layer(Layer.scoped(TheDouble, double()), { excludeTestServices: true, timeout: "60 seconds" })(
    "the suite of connections",
    (it) => {
      const suite = ConnectionSuite.suite({
        make: Effect.flatMap(TheDouble, (there) => Qdrant.make({ url: there.url })),
        ask: (store: Store) => store.collections,
        expected: [],
        connecting: (connect) => Effect.flatMap(TheDouble, (there) => Qdrant.make({ url: there.url, connect })),
        away: (connect) => Qdrant.make({ url: "http://127.0.0.1:1", connect }),
        impatient: Effect.flatMap(TheDouble, (there) => Qdrant.make({ url: there.url, drainTimeout: "200 millis" }))
      })
      for (const one of suite.cases) it.effect(one.name, () => one.run, 30_000)
    }
  )

  it.scopedLive("a kind of the registry, from configuration; every wrong and missing field at once", () =>
    Effect.gen(function* () {
      const there = yield* double({ apiKey: "key" })
      const provider = (entries: Readonly<Record<string, string>>) =>
        Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(entries))))
      yield* Effect.gen(function* () {
        const connections = yield* Connections.make([Qdrant.kind])
        const connection = yield* connections.get(Qdrant.kind, "search")
        yield* connection.use((store) => store.ensureCollection("configured", shape))
        assert.deepStrictEqual(Object.fromEntries(there.collections.get("configured")?.indexes ?? []), {
          "metadata.kind": "keyword"
        })
      }).pipe(
        provider({
          "connections.search.kind": "qdrant",
          "connections.search.url": there.url,
          "connections.search.apiKey": "key",
          "connections.search.plane": "internal",
          "connections.search.timeout": "5 seconds",
          "connections.search.payloadIndexes.kind": "keyword"
        })
      )
      const wrong = yield* Effect.exit(
        Effect.gen(function* () {
          const connections = yield* Connections.make([Qdrant.kind])
          yield* connections.get(Qdrant.kind, "search")
        }).pipe(
          provider({
            "connections.search.kind": "qdrant",
            "connections.search.plane": "sideways",
            "connections.search.ids": "roman",
            "connections.search.batchSize": "-3"
          })
        )
      )
      assert.isTrue(Exit.isFailure(wrong))
      for (const field of ["url", "plane", "ids", "batchSize"]) assert.include(String(wrong), field)
    })
  )

  it.scopedLive("the double sees what the description is too loose for", () =>
    Effect.gen(function* () {
      const there = yield* double()
      yield* Effect.promise(async () => {
        const send = (method: string, path: string, body: unknown) =>
          fetch(`${there.url}${path}`, {
            method,
            headers: { "content-type": "application/json" },
            body: JSON.stringify(body)
          })
        await send("PUT", "/collections/abc", { vectors: { size: 2, distance: "Dot" } })
        assert.deepStrictEqual(there.violations, [])
        const bad: ReadonlyArray<readonly [string, string, unknown]> = [
          ["POST", "/collections/abc/points/count", { filter: { must: { key: "k", match: { value: 1.5 } } } }],
          ["POST", "/collections/abc/points/count", { filter: { must: { key: "k", match: { any: [1, "a"] } } } }],
          ["POST", "/collections/abc/points/count", { filter: { musst: [] } }],
          ["PUT", "/collections/abc/points", { points: [{ id: "x", vector: [1, 0] }] }],
          ["PUT", "/collections/abc/points", { points: [{ id: -1, vector: [1, 0] }] }],
          ["POST", "/collections/abc/points/scroll", { limit: "x" }]
        ]
        for (const [index, [method, path, body]] of bad.entries()) {
          const answer = await send(method, path, body)
          assert.isAtLeast(answer.status, 400)
          assert.isAtLeast(there.violations.length, index + 1, JSON.stringify(body))
        }
      })
    })
  )
})

const realUrl = process.env["QDRANT_TEST_URL"]
if (realUrl !== undefined && realUrl !== "") {
  const apiKey = process.env["QDRANT_TEST_API_KEY"]
  const real = Qdrant.layer({
    url: realUrl,
    plane: "internal",
    exact: true,
    ...(apiKey === undefined ? {} : { apiKey: Redacted.make(apiKey) })
  })
  layer(real, { excludeTestServices: true, timeout: "60 seconds" })("Qdrant at QDRANT_TEST_URL", (it) => {
    for (const one of Suite.applicable(VectorStoreSuite.suite, ["exact"])) it.effect(one.name, () => one.run, 120_000)
  })
}
