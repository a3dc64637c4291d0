import { describe, layer } from "@effect/vitest"
import { ConnectionSuite } from "@underlay/core/testing"
import * as DocumentDbServer from "@underlay/servers/DocumentDbServer"
import * as Need from "@underlay/servers/Need"
import { Context, Effect, Layer } from "effect"
import * as MongoDb from "../../src/database/MongoDb.ts"
import { engineSuite } from "./mongoEngineSuite.ts"
import { connect, double, settingsOf } from "./mongoTest.ts"

class DocumentDb extends Context.Tag("test/DocumentDb")<DocumentDb, DocumentDbServer.DocumentDbServer>() {}

describe("MongoDb on the double", () => {
  layer(double(), { excludeTestServices: true })((it) => {
    engineSuite(it, { make: connect(), changeStreams: true })
  })
})

describe.skipIf(Need.missing("documentdb"))(Need.title("MongoDb on DocumentDB", "documentdb"), () => {
  layer(Layer.scoped(DocumentDb, DocumentDbServer.make), { excludeTestServices: true, timeout: "60 seconds" })((it) => {
    const make = Effect.flatMap(DocumentDb, (server) => MongoDb.make(settingsOf(server.url)))
    engineSuite(it, { make, changeStreams: false })
    const suite = ConnectionSuite.suite({
      make,
      ask: (db: MongoDb.Database) => Effect.map(db.command({ ping: 1 }), (answer) => answer["ok"]),
      expected: 1
    })
    for (const each of suite.cases) it.effect(each.name, () => each.run)
  })
})

// Registered only where there is one, so that nothing is skipped: `npm test` says at its end when there was none.
const url = process.env["MONGODB_TEST_URL"]
if (url !== undefined && url !== "") {
  describe("MongoDb on the server of MONGODB_TEST_URL", () => {
    layer(Layer.empty, { excludeTestServices: true })((it) => {
      engineSuite(it, { make: MongoDb.make(settingsOf(url)), changeStreams: true })
    })
  })
}
