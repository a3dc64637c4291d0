/** What the tests of MongoDB share. */
import * as MongoWireServer from "@underlay/servers/MongoWireServer"
import { Context, Effect, Layer, Redacted, Schedule, Schema } from "effect"
import * as MongoDb from "../../src/database/MongoDb.ts"

export class Server extends Context.Tag("test/Server")<Server, MongoWireServer.MongoWireServer>() {}

export const settingsOf = (url: string, more: Partial<MongoDb.MongoDbSettings> = {}): MongoDb.MongoDbSettings => ({
  url: Redacted.make(url),
  database: "shop",
  plane: "internal",
  ...more
})

export const connect = (more: Partial<MongoDb.MongoDbSettings> = {}) =>
  Effect.flatMap(Server, (server) => MongoDb.make(settingsOf(server.url, more)))

export const double = (options: MongoWireServer.MongoWireServerOptions = {}) =>
  Layer.scoped(Server, MongoWireServer.make(options))

export const User = Schema.Struct({
  _id: MongoDb.ObjectIdHex,
  name: Schema.String,
  age: Schema.Number,
  joined: Schema.optional(Schema.ValidDateFromSelf),
  tags: Schema.optional(Schema.Array(Schema.String))
})

/** Looked at until it holds; ten seconds. */
export const eventually = <E, R>(what: string, condition: Effect.Effect<boolean, E, R>) =>
  condition.pipe(
    Effect.filterOrFail(
      (holds) => holds,
      () => `never: ${what}`
    ),
    Effect.retry({ schedule: Schedule.spaced("10 millis"), times: 1_000 })
  )

let names = 0
/** A collection that no other test uses. */
export const fresh = (db: MongoDb.Database, options?: MongoDb.CollectionOptions) =>
  db.collection(`users${names++}`, User, options)

export const reasonOf = (error: unknown): string | undefined =>
  typeof error === "object" && error !== null && "reason" in error ? String(error.reason) : undefined
