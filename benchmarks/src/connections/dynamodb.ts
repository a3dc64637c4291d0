/** One item read and written, and a hundred by a query, beside AWS' document client, at dynalite in its own process. */
import * as ChildProcess from "node:child_process"
import * as Path from "node:path"
import { DynamoDBClient } from "@aws-sdk/client-dynamodb"
import { DynamoDBDocumentClient, GetCommand, PutCommand, QueryCommand } from "@aws-sdk/lib-dynamodb"
import * as DynamoDb from "@underlay/connections/database/DynamoDb"
import { Chunk, Effect, Option, Redacted, Schema, Stream } from "effect"
import type * as Load from "../redis/Load.ts"
import { type Comparing, checked, compared, peer } from "./place.ts"

const Item = Schema.Struct({
  owner: Schema.String,
  number: Schema.Number,
  name: Schema.String,
  price: Schema.Number,
  tags: Schema.Array(Schema.String)
})

const item = (number: number) => ({
  owner: "bench",
  number,
  name: `item ${number}`,
  price: number / 3,
  tags: ["a", "b", `c${number}`]
})

const lengthOf = (answer: unknown): number =>
  Chunk.isChunk(answer)
    ? Chunk.size(answer)
    : ((answer as { readonly Items?: ReadonlyArray<unknown> } | undefined)?.Items?.length ?? 0)

export const comparing: Comparing = Effect.gen(function* () {
  const { endpoint } = yield* Effect.acquireRelease(
    Effect.async<{ readonly child: ChildProcess.ChildProcess; readonly endpoint: string }>((resume) => {
      const child = ChildProcess.spawn(
        process.execPath,
        [
          "--import",
          Path.resolve(import.meta.dirname, "../published.mjs"),
          Path.resolve(import.meta.dirname, "dynaliteServer.ts")
        ],
        { stdio: ["ignore", "inherit", "inherit", "ipc"] }
      )
      child.once("message", (endpoint) => resume(Effect.succeed({ child, endpoint: String(endpoint) })))
    }),
    ({ child }) => Effect.sync(() => child.kill("SIGKILL"))
  )
  const [accessKeyId, secretAccessKey, region] = ["bench", "bench", "eu-central-1"]
  const settings = { region, accessKeyId, secretAccessKey: Redacted.make(secretAccessKey), endpoint }
  const internal = yield* DynamoDb.make({ ...settings, plane: "internal" })
  const external = yield* DynamoDb.make({ ...settings, plane: "external" })
  const tableOf = (dynamo: DynamoDb.Service) =>
    dynamo.table({ name: "items", schema: Item, partitionKey: "owner", sortKey: "number" })
  const bare = yield* peer(
    () =>
      DynamoDBDocumentClient.from(
        new DynamoDBClient({ region, endpoint, credentials: { accessKeyId, secretAccessKey } })
      ),
    (client) => client.destroy()
  )
  const ours = [
    ["ours, internal", tableOf(internal)],
    ["ours, external", tableOf(external)]
  ] as const
  yield* tableOf(internal).createTable()
  yield* tableOf(internal).writeMany({ put: Array.from({ length: 100 }, (_, number) => item(number)) })
  const base = "lib-dynamodb 3"
  const TableName = "items"
  const reading = yield* checked(
    [
      {
        name: base,
        promise: (number) => () => bare.send(new GetCommand({ TableName, Key: { owner: "bench", number } }))
      },
      ...ours.map(
        ([name, table]): Load.Subject => ({ name, effect: (number) => table.get({ owner: "bench", number }) })
      )
    ],
    (answer) => {
      const found: unknown = Option.isOption(answer) ? Option.getOrUndefined(answer) : answer
      return JSON.stringify(found ?? "").includes("item 0")
    }
  )
  const writing: ReadonlyArray<Load.Subject> = [
    {
      name: base,
      promise: (number) => () => bare.send(new PutCommand({ TableName, Item: { ...item(number), owner: "put" } }))
    },
    ...ours.map(
      ([name, table]): Load.Subject => ({ name, effect: (number) => table.put({ ...item(number), owner: "put" }) })
    )
  ]
  const querying = yield* checked(
    [
      {
        name: base,
        promise: () => () =>
          bare.send(
            new QueryCommand({
              TableName,
              KeyConditionExpression: "#owner = :owner",
              ExpressionAttributeNames: { "#owner": "owner" },
              ExpressionAttributeValues: { ":owner": "bench" }
            })
          )
      },
      ...ours.map(
        ([name, table]): Load.Subject => ({
          name,
          effect: () => Stream.runCollect(table.query({ partition: "bench" }))
        })
      )
    ],
    (answer) => lengthOf(answer) === 100
  )
  const limits: ReadonlyArray<Load.Limit> = [{ subject: "ours, internal", to: base, atMost: 1.1 }]
  return [
    yield* compared({ title: "DynamoDB: get", base, subjects: reading, limits, concurrency: [1, 20], sliceMs: 1_000 }),
    yield* compared({ title: "DynamoDB: put", base, subjects: writing, limits, concurrency: [1, 20], sliceMs: 1_000 }),
    yield* compared({
      title: "DynamoDB: a query of a hundred",
      base,
      subjects: querying,
      limits,
      concurrency: [1],
      sliceMs: 1_000
    })
  ]
})
