import { assert, describe, it, layer } from "@effect/vitest"
import { ObjectStore } from "@underlay/core"
import { ObjectStoreSuite, Suite } from "@underlay/core/testing"
import * as FauxqsServer from "@underlay/servers/FauxqsServer"
import * as Need from "@underlay/servers/Need"
import * as RadosgwServer from "@underlay/servers/RadosgwServer"
import { Context, Effect, Layer, Redacted } from "effect"
import { S3 } from "../../src/index.ts"

class Endpoint extends Context.Tag("test/S3/Endpoint")<
  Endpoint,
  {
    readonly endpoint: string
    readonly region: string
    readonly accessKeyId: string
    readonly secretAccessKey: string
  }
>() {}

class Rados extends Context.Tag("test/S3/Rados")<Rados, RadosgwServer.RadosgwServer>() {}

const radosgw = Layer.scopedContext(
  Effect.map(RadosgwServer.make, (server) => Context.make(Endpoint, server).pipe(Context.add(Rados, server)))
)
const fauxqs = Layer.scoped(Endpoint, FauxqsServer.make)

const settingsOf = Effect.map(
  Endpoint,
  ({ accessKeyId, endpoint, region, secretAccessKey }): S3.S3Settings => ({
    bucket: "tests",
    endpoint,
    region,
    accessKeyId,
    secretAccessKey: Redacted.make(secretAccessKey),
    createBucket: true,
    plane: "internal"
  })
)

const store = Layer.unwrapEffect(Effect.map(settingsOf, S3.layer))

const options = { timeout: "90 seconds", excludeTestServices: true } as const

describe("S3", () => {
  layer(fauxqs, options)("on fauxqs", (it) => {
    it.layer(store, { timeout: "60 seconds" })("the port", (it) => {
      for (const one of Suite.applicable(ObjectStoreSuite.suite, ["anyKey", "conditionalGet", "ordered"])) {
        it.effect(one.name, () => one.run, 60_000)
      }
    })
  })

  describe.skipIf(Need.missing("radosgw"))(Need.title("on Ceph", "radosgw"), () => {
    layer(radosgw, options)("", (it) => {
      it.layer(store, { timeout: "60 seconds" })("the port", (it) => {
        const capabilities = ["conditionalPut", "anyKey", "conditionalGet", "ordered"] as const
        for (const one of Suite.applicable(ObjectStoreSuite.suite, capabilities)) {
          it.effect(one.name, () => one.run, 60_000)
        }
      })
    })
  })
})
