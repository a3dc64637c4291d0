/**
 * One document, a thousand as an array and as a stream, and a hundred written, beside the bare driver, at a double of
 * MongoDB in a process of its own: what is measured is the clients alone. Equals are compared: a collection without a schema
 * with the driver whose calls can be aborted and have a limit, as all of ours; one with a schema with the same that decodes
 * by that schema. What the bare driver takes is shown too.
 */
import * as ChildProcess from "node:child_process"
import * as Path from "node:path"
import * as MongoDb from "@underlay/connections/database/MongoDb"
import { Chunk, Effect, ParseResult, Redacted, Schema, Stream } from "effect"
import { MongoClient } from "mongodb"
import type * as Load from "../redis/Load.ts"
import { type Comparing, checked, compared, peer } from "./place.ts"

const Item = Schema.Struct({
  _id: Schema.Number,
  name: Schema.String,
  price: Schema.Number,
  tags: Schema.Array(Schema.String)
})

const items = Array.from({ length: 1_000 }, (_, index) => ({
  _id: index,
  name: `item ${index}`,
  price: index / 3,
  tags: ["a", "b", `c${index}`]
}))

const decode = ParseResult.decodeUnknownSync(Item)
const encode = ParseResult.encodeUnknownSync(Item)

export const comparing: Comparing = Effect.gen(function* () {
  const { port } = yield* Effect.acquireRelease(
    Effect.async<{ readonly child: ChildProcess.ChildProcess; readonly port: number }>((resume) => {
      const child = ChildProcess.spawn(
        process.execPath,
        [
          "--import",
          Path.resolve(import.meta.dirname, "../published.mjs"),
          Path.resolve(import.meta.dirname, "mongoServer.ts")
        ],
        { stdio: ["ignore", "inherit", "inherit", "ipc"] }
      )
      child.once("message", (port) => resume(Effect.succeed({ child, port: Number(port) })))
    }),
    ({ child }) => Effect.sync(() => child.kill("SIGKILL"))
  )
  const url = `mongodb://127.0.0.1:${port}/bench`
  const bare = yield* peer(
    () => new MongoClient(url).connect(),
    (client) => client.close()
  )
  const own = bare.db("bench").collection<(typeof items)[number]>("items")
  yield* Effect.promise(() => own.insertMany(items))
  const internal = yield* MongoDb.make({ url: Redacted.make(url), plane: "internal" })
  const external = yield* MongoDb.make({ url: Redacted.make(url), plane: "external" })
  const ours = [
    ["ours, internal", internal.collection("items")],
    ["ours, external", external.collection("items")]
  ] as const
  const typed = internal.collection("items", Item)
  const [base, limited, decoding] = ["mongodb 7", "mongodb 7, with a signal and a limit", "mongodb 7, with Schema"]
  const byOurs = "ours, internal, with Schema"
  const signal = () => ({ signal: new AbortController().signal })
  const limit = () => ({ ...signal(), maxTimeMS: 29_750 })
  const many = (answer: unknown): boolean =>
    (Chunk.isChunk(answer) ? Chunk.size(answer) : (answer as [])?.length) === 1_000

  const one = yield* checked(
    [
      { name: base, promise: (worker) => () => own.findOne({ _id: worker }) },
      { name: limited, promise: (worker) => () => own.findOne({ _id: worker }, limit()) },
      { name: decoding, promise: (worker) => async () => decode(await own.findOne({ _id: worker }, limit())) },
      ...ours.map(([name, collection]): Load.Subject => ({ name, effect: (worker) => collection.findById(worker) })),
      { name: byOurs, effect: (worker) => typed.findOne({ _id: worker }) }
    ],
    (answer) => JSON.stringify(answer).includes("item 0")
  )
  const all = yield* checked(
    [
      { name: base, promise: () => () => own.find().toArray() },
      { name: limited, promise: () => () => own.find({}, limit()).toArray() },
      {
        name: decoding,
        promise: () => async () => (await own.find({}, limit()).toArray()).map((item) => decode(item))
      },
      ...ours.map(([name, collection]): Load.Subject => ({ name, effect: () => collection.findAll({}) })),
      { name: byOurs, effect: () => typed.findAll({}) }
    ],
    many
  )
  const streamed = yield* checked(
    [
      {
        name: base,
        promise: () => async () => {
          const found: Array<unknown> = []
          for await (const item of own.find()) found.push(item)
          return found
        }
      },
      {
        name: limited,
        promise: () => async () => {
          const found: Array<unknown> = []
          for await (const item of own.find({}, signal())) found.push(item)
          return found
        }
      },
      {
        name: decoding,
        promise: () => async () => {
          const found: Array<unknown> = []
          for await (const item of own.find({}, signal())) found.push(decode(item))
          return found
        }
      },
      ...ours.map(
        ([name, collection]): Load.Subject => ({ name, effect: () => Stream.runCollect(collection.find({})) })
      ),
      { name: byOurs, effect: () => Stream.runCollect(typed.find({})) }
    ],
    many
  )
  let next = 1_000_000
  const part = () => Array.from({ length: 100 }, () => ({ _id: next++, name: "new", price: 1, tags: ["x"] }))
  const bareNew = bare.db("bench").collection<(typeof items)[number]>("new")
  const oursNew = [
    ["ours, internal", internal.collection("new")],
    ["ours, external", external.collection("new")]
  ] as const
  const typedNew = internal.collection("new", Item)
  const written: ReadonlyArray<Load.Subject> = [
    { name: base, promise: () => () => bareNew.insertMany(part()) },
    {
      name: decoding,
      promise: () => () =>
        bareNew.insertMany(
          part().map((item) => {
            const { tags, ...rest } = encode(item)
            return { ...rest, tags: [...tags] }
          })
        )
    },
    ...oursNew.map(
      ([name, collection]): Load.Subject => ({
        name,
        effect: () => Effect.suspend(() => collection.insertMany(part()))
      })
    ),
    { name: byOurs, effect: () => Effect.suspend(() => typedNew.insertMany(part())) }
  ]
  const limits: ReadonlyArray<Load.Limit> = [
    { subject: "ours, internal", to: limited, atMost: 1.1 },
    { subject: byOurs, to: decoding, atMost: 1.1 }
  ]
  return [
    yield* compared({ title: "MongoDB: one document by its id", base, subjects: one, limits, concurrency: [1, 20] }),
    yield* compared({
      title: "MongoDB: a thousand documents",
      base,
      subjects: all,
      limits,
      concurrency: [1],
      sliceMs: 250
    }),
    yield* compared({
      title: "MongoDB: a thousand documents, streamed",
      base,
      subjects: streamed,
      limits,
      concurrency: [1],
      sliceMs: 250
    }),
    yield* compared({
      title: "MongoDB: a hundred written",
      base,
      subjects: written,
      // of the driver's writes none can be aborted
      limits: limits.map((limit) => (limit.to === limited ? { ...limit, to: base } : limit)),
      concurrency: [1],
      sliceMs: 250
    })
  ]
})
