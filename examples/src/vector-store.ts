/**
 * Search by meaning with nothing to install: documents are embedded in this process (no key, no network) and kept in
 * the memory adapter of the port. `PgVector.layerSql()` over a PostgreSQL takes its place without a change to the program.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Embeddings, VectorStore } from "@underlay/core"
import { Console, Effect, Layer } from "effect"

const notes = [
  {
    id: "redis",
    team: "platform",
    text: "Redis refuses connections: check that the server runs and which address it listens on"
  },
  { id: "disk", team: "platform", text: "The disk is full: find the large log files and rotate them" },
  { id: "certificate", team: "security", text: "A certificate has expired: renew it and reload the proxy" }
]

const program = Effect.gen(function* () {
  const embeddings = yield* Embeddings.Embeddings
  const store = yield* VectorStore.VectorStore
  yield* store.ensureCollection("notes", { dimensions: embeddings.dimensions, metric: "cosine" })

  const vectors = yield* embeddings.embedMany(notes.map((note) => note.text))
  yield* store.upsert(
    "notes",
    notes.map((note, i) => ({
      id: note.id,
      vector: vectors[i] ?? [],
      metadata: { team: note.team },
      document: note.text
    }))
  )

  const vector = yield* embeddings.embed("cannot conect to redis")
  const matches = yield* store.query("notes", { vector, limit: 2, filter: VectorStore.Filter.eq("team", "platform") })
  for (const match of matches) yield* Console.log(`${match.score.toFixed(2)}  ${match.id}`)
})

program.pipe(Effect.provide(Layer.merge(Embeddings.layerLocal(), VectorStore.layerMemory)), NodeRuntime.runMain)
