import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Either } from "effect"
import * as FileSystem from "../../src/object/FileSystem.ts"
import * as S3 from "../../src/object/S3.ts"

const read = (variables: ReadonlyArray<readonly [string, string]>) =>
  Effect.withConfigProvider(ConfigProvider.fromMap(new Map(variables)))

describe("settings of object stores", () => {
  it.effect("S3: every wrong field is told at once, with its path and without a secret", () =>
    Effect.gen(function* () {
      const result = yield* Effect.either(
        S3.kind.settings.pipe(
          read([
            ["endpoint", "no url"],
            ["partSize", "many"],
            ["secretAccessKey", "hidden"],
            ["checksum", "md5"]
          ])
        )
      )
      const text = Either.isLeft(result) ? String(result.left) : ""
      for (const field of ["bucket", "endpoint", "partSize", "checksum"]) assert.include(text, field)
      assert.notInclude(text, "hidden")
    })
  )

  it.effect("S3: texts become what the settings are made of", () =>
    Effect.gen(function* () {
      const settings = yield* S3.kind.settings.pipe(
        read([
          ["bucket", "reports"],
          ["endpoint", "https://s3.example.com"],
          ["partSize", "8388608"],
          ["createBucket", "true"],
          ["timeout", "5 seconds"]
        ])
      )
      assert.deepStrictEqual(
        [settings.bucket, settings.partSize, settings.createBucket, String(settings.endpoint)],
        ["reports", 8_388_608, true, "https://s3.example.com/"]
      )
    })
  )

  it.effect("FileSystem: the folder is needed", () =>
    Effect.gen(function* () {
      const result = yield* Effect.either(FileSystem.kind.settings.pipe(read([])))
      assert.include(Either.isLeft(result) ? String(result.left) : "", "directory")
    })
  )

  it("both are kinds with a schema", () => {
    assert.isDefined(S3.kind.schema)
    assert.isDefined(FileSystem.kind.schema)
  })
})
