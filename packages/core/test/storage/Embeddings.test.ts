import { assert, describe, it } from "@effect/vitest"
import { Effect, FastCheck, Layer } from "effect"
import * as Embeddings from "../../src/storage/Embeddings.ts"
import * as VectorStore from "../../src/storage/VectorStore.ts"

const embed = (text: string) => Effect.flatMap(Embeddings.Embeddings, (embeddings) => embeddings.embed(text))

const similarity = (a: string, b: string) =>
  Effect.map(Effect.all([embed(a), embed(b)]), ([x, y]) => 1 - VectorStore.distanceOf("cosine", x, y))

/** How far nearer `text` is to `near` than to `far`. */
const nearer = (text: string, near: string, far: string) =>
  Effect.map(Effect.all([similarity(text, near), similarity(text, far)]), ([n, f]) => n - f)

describe("Embeddings.layerLocal", () => {
  it.effect("vectors have the dimensions, length one and finite numbers, whatever the text", () =>
    Effect.gen(function* () {
      const embeddings = yield* Embeddings.Embeddings
      assert.strictEqual(embeddings.dimensions, 1024)
      for (const text of FastCheck.sample(FastCheck.string({ unit: "binary", maxLength: 200 }), 200)) {
        const vector = yield* embeddings.embed(text)
        assert.strictEqual(vector.length, 1024, text)
        assert.closeTo(Math.hypot(...vector), 1, 1e-9, text)
      }
      for (const text of ["", " ", "???", "the of and", "\ud800", "日本語のテキスト", "🚀"]) {
        assert.closeTo(Math.hypot(...(yield* embeddings.embed(text))), 1, 1e-9)
      }
    }).pipe(Effect.provide(Embeddings.layerLocal()))
  )

  it.effect("the same text gives the same vector everywhere and always; a change of it is a change of model", () =>
    Effect.gen(function* () {
      const embeddings = yield* Embeddings.Embeddings
      assert.strictEqual(embeddings.model, "local-hashing-1-64")
      const vector = yield* embeddings.embed("Redis refuses connections")
      assert.deepStrictEqual(vector, yield* embeddings.embed("Redis refuses connections"))
      const fingerprint = vector.map((value) => Math.round(value * 1000)).join(",")
      assert.strictEqual(
        fingerprint,
        "-455,0,0,0,138,-455,0,0,0,0,0,-163,-417,0,0,0,0,0,0,0,-112,-163,0,0,0,0,0,0,0,0,0,0,0,0,0,318,-276,0,0,0,0,0,0,0,0,138,159,0,0,0,0,0,0,-163,159,138,0,-91,-91,0,0,0,0,-138"
      )
    }).pipe(Effect.provide(Embeddings.layerLocal({ dimensions: 64 })))
  )

  it.effect("embedMany gives the vectors of embed, in order", () =>
    Effect.gen(function* () {
      const embeddings = yield* Embeddings.Embeddings
      const texts = Array.from({ length: 150 }, (_, n) => `text number ${n}`)
      assert.deepStrictEqual(yield* embeddings.embedMany(texts), yield* Effect.forEach(texts, embeddings.embed))
      assert.deepStrictEqual(yield* embeddings.embedMany([]), [])
    }).pipe(Effect.provide(Embeddings.layerLocal()))
  )

  it.effect("case, accents, punctuation and word forms do not matter much", () =>
    Effect.gen(function* () {
      assert.closeTo(yield* similarity("Café, naïve!", "cafe naive"), 1, 1e-9)
      assert.closeTo(yield* similarity("The server can't start", "the SERVER cant start"), 1, 1e-9)
      for (const [a, b] of [
        ["refused connections", "refusing connection"],
        ["the certificates expired", "certificate expires"],
        ["caching queries", "cached query"],
        ["stopped deployments", "stopping deployment"],
        ["running processes", "run process"]
      ] as const) {
        assert.isAbove(yield* similarity(a, b), 0.6, `${a} / ${b}`)
      }
    }).pipe(Effect.provide(Embeddings.layerLocal()))
  )

  it.effect("typing errors still match: missing, doubled, swapped and wrong letters", () =>
    Effect.gen(function* () {
      for (const [wrong, right] of [
        ["conection refussed", "connection refused"],
        ["certifcate expird", "certificate expired"],
        ["postgers databse", "postgres database"],
        ["replicaton lagg", "replication lag"],
        ["depolyment stuk", "deployment stuck"]
      ] as const) {
        assert.isAbove(yield* similarity(wrong, right), 0.14, wrong)
        assert.isAbove(yield* nearer(wrong, right, "grapes ripen on southern hills"), 0.14, wrong)
      }
    }).pipe(Effect.provide(Embeddings.layerLocal()))
  )

  it.effect("names are found by their parts, however they are written", () =>
    Effect.gen(function* () {
      for (const [a, b] of [
        ["max_connections", "max connections"],
        ["CrashLoopBackOff", "crash loop back off"],
        ["time-out", "timeout"],
        ["ECONNREFUSED 127.0.0.1:6379", "port 6379"]
      ] as const) {
        assert.isAbove(yield* similarity(a, b), 0.25, `${a} / ${b}`)
      }
    }).pipe(Effect.provide(Embeddings.layerLocal()))
  )

  it.effect("common words do not make texts alike", () =>
    Effect.gen(function* () {
      const gap = yield* nearer(
        "what do I do when the bread does not rise",
        "bread that does not rise: the yeast is dead",
        "what do I do when the car does not start"
      )
      assert.isAbove(gap, 0.1)
      assert.isBelow(yield* similarity("what should I do about this", "an octopus has three hearts"), 0.1)
    }).pipe(Effect.provide(Embeddings.layerLocal()))
  )

  it.effect("dimensions out of range are a typed error", () =>
    Effect.gen(function* () {
      for (const dimensions of [0, 63, 1.5, 8193, Number.NaN]) {
        const error = yield* Effect.flip(Embeddings.makeLocal({ dimensions }))
        assert.strictEqual(error.reason, "InvalidRequest")
      }
    })
  )

  it.effect("with a vector store it finds the text that a question is about", () =>
    Effect.gen(function* () {
      const embeddings = yield* Embeddings.Embeddings
      const store = yield* VectorStore.VectorStore
      const texts = {
        bread:
          "Baking bread: knead the dough, let it rise with yeast, bake it hot. If the dough stays flat the yeast is dead.",
        bicycle: "Repairing a bicycle tyre: lift the tyre off the rim, find the puncture in the tube, patch it.",
        tomatoes:
          "Growing tomatoes: seedlings want sun and water. Yellow leaves mean too much water or a lack of nitrogen.",
        chess: "Opening a game of chess: develop knights and bishops, control the centre, castle early."
      }
      yield* store.ensureCollection("texts", { dimensions: embeddings.dimensions, metric: "cosine" })
      const vectors = yield* embeddings.embedMany(Object.values(texts))
      yield* store.upsert(
        "texts",
        Object.keys(texts).map((id, n) => ({ id, vector: vectors[n] ?? [] }))
      )
      for (const [question, id] of [
        ["why wont my doh rise", "bread"],
        ["i have a punctured tire on my bycicle", "bicycle"],
        ["the leafs of my tomatos turn yelow", "tomatoes"],
        ["which peaces should i develop first, nights?", "chess"]
      ] as const) {
        const [best] = yield* store.query("texts", { vector: yield* embeddings.embed(question), limit: 1 })
        assert.strictEqual(best?.id, id, question)
      }
    }).pipe(Effect.provide(Layer.merge(Embeddings.layerLocal(), VectorStore.layerMemory)))
  )
})

describe("EmbeddingsError", () => {
  const error = (reason: Embeddings.EmbeddingsErrorReason, more: { readonly retryable?: boolean } = {}) =>
    new Embeddings.EmbeddingsError({ reason, method: "embed", description: "a fact", ...more })

  it("may pass by itself for a limit of rate, a timeout and a failure of the service only", () => {
    const classes = Embeddings.EmbeddingsErrorReason.literals.map((reason) => [reason, error(reason).errorClass])
    assert.deepStrictEqual(
      classes.filter(([, kind]) => kind !== "permanent"),
      [
        ["RateLimited", "rate-limited"],
        ["Timeout", "transient"],
        ["Unavailable", "transient"]
      ]
    )
  })

  it("what is known of the very error goes before its reason", () => {
    assert.deepStrictEqual(
      [error("Unavailable", { retryable: false }).errorClass, error("InvalidRequest", { retryable: true }).errorClass],
      ["permanent", "transient"]
    )
    assert.deepStrictEqual(
      [
        error("Unavailable", { retryable: false }).isRetryable,
        error("InvalidRequest", { retryable: true }).isRetryable
      ],
      [false, true]
    )
  })
})
