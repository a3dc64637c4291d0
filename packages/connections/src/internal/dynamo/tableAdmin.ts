/** The table itself: made, described, waited for and deleted. */
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as AST from "effect/SchemaAST"
import { asRecord, listOf, numberOf, type Output } from "./client.ts"
import type { Faults } from "./faults.ts"
import { keyType } from "./fields.ts"
import type { Definition, Items } from "./tableItems.ts"
import type { Call, CreateOptions, Index, TableDescription } from "./tableModel.ts"

export const make = <A extends object, I extends object>(
  definition: Definition<A, I>,
  items: Items<A, I>,
  faults: Faults,
  call: Call
) => {
  const { name, partitionKey, schema, sortKey } = definition
  const { keyNames } = items
  const { failure } = faults

  const describe: Effect.Effect<TableDescription, ConnectionError> = Effect.map(
    call("DescribeTable", { TableName: name }, true),
    (output) => {
      const found = asRecord(output["Table"]) ?? {}
      const indexes: Record<string, string> = {}
      for (const one of listOf(found["GlobalSecondaryIndexes"])) {
        const index = asRecord(one)
        indexes[String(index?.["IndexName"])] = String(index?.["IndexStatus"])
      }
      return {
        status: String(found["TableStatus"]),
        indexes,
        itemCount: numberOf(found["ItemCount"]),
        sizeBytes: numberOf(found["TableSizeBytes"])
      }
    }
  )

  /** Asks until it is so, or the time is over. */
  const waiting = (
    method: string,
    timeout: Duration.DurationInput | undefined,
    isSo: Effect.Effect<boolean, ConnectionError>
  ): Effect.Effect<void, ConnectionError> =>
    Effect.gen(function* () {
      const limit = Duration.toMillis(timeout ?? "2 minutes")
      const end = (yield* Clock.currentTimeMillis) + limit
      let pause = 50
      while (!(yield* isSo)) {
        const now = yield* Clock.currentTimeMillis
        if (now >= end) {
          return yield* failure("Timeout", method, `the table was not ready within ${limit} ms: it may still become so`)
        }
        yield* Effect.sleep(Duration.millis(Math.min(pause, end - now)))
        pause = Math.min(2_000, pause * 1.5)
      }
    })

  const waitUntilActive = (timeout?: Duration.DurationInput): Effect.Effect<void, ConnectionError> =>
    waiting(
      "waitUntilActive",
      timeout,
      Effect.map(describe, ({ indexes, status }) =>
        [status, ...Object.values(indexes)].every((one) => one === "ACTIVE")
      ).pipe(
        // it is created and not seen everywhere yet
        Effect.catchIf(
          (error) => error.reason === "NotFound",
          () => Effect.succeed(false)
        )
      )
    )

  const createTable: (options?: CreateOptions) => Effect.Effect<void, ConnectionError> = (options = {}) =>
    Effect.gen(function* () {
      const indexes = Object.entries<Index>(definition.indexes ?? {})
      const attributes = new Set<string>(keyNames)
      for (const [, index] of indexes) {
        attributes.add(index.partitionKey)
        if (index.sortKey !== undefined) attributes.add(index.sortKey)
      }
      const definitions: Array<Output> = []
      for (const attribute of attributes) {
        const [signature] = AST.getPropertySignatures(AST.encodedAST(AST.pick(schema.ast, [attribute])))
        const type = signature === undefined ? undefined : keyType(signature.type)
        if (type === undefined) {
          return yield* failure(
            "InvalidSettings",
            "createTable",
            `${attribute} is a key: it has to be stored as a string, a number or bytes`,
            false
          )
        }
        definitions.push({ AttributeName: attribute, AttributeType: type })
      }
      const keys = (partition: string, sort: string | undefined) => [
        { AttributeName: partition, KeyType: "HASH" },
        ...(sort === undefined ? [] : [{ AttributeName: sort, KeyType: "RANGE" }])
      ]
      const throughput =
        options.throughput === undefined
          ? undefined
          : { ReadCapacityUnits: options.throughput.read, WriteCapacityUnits: options.throughput.write }
      const indexOf = ([indexName, index]: readonly [string, Index], global: boolean): Output => ({
        IndexName: indexName,
        KeySchema: keys(index.partitionKey, index.sortKey),
        Projection: { ProjectionType: "ALL" },
        ...(global && throughput !== undefined ? { ProvisionedThroughput: throughput } : {})
      })
      const local = indexes.filter(([, index]) => index.local === true).map((one) => indexOf(one, false))
      const global = indexes.filter(([, index]) => index.local !== true).map((one) => indexOf(one, true))
      yield* call(
        "CreateTable",
        {
          TableName: name,
          AttributeDefinitions: definitions,
          KeySchema: keys(partitionKey, sortKey),
          ...(throughput === undefined
            ? { BillingMode: "PAY_PER_REQUEST" }
            : { BillingMode: "PROVISIONED", ProvisionedThroughput: throughput }),
          ...(local.length === 0 ? {} : { LocalSecondaryIndexes: local }),
          ...(global.length === 0 ? {} : { GlobalSecondaryIndexes: global })
        },
        false
      )
      yield* waitUntilActive(options.timeout)
      if (definition.timeToLive !== undefined) {
        yield* call(
          "UpdateTimeToLive",
          {
            TableName: name,
            TimeToLiveSpecification: { AttributeName: definition.timeToLive, Enabled: true }
          },
          false
        )
      }
    })

  const deleteTable: Effect.Effect<void, ConnectionError> = Effect.zipRight(
    call("DeleteTable", { TableName: name }, false),
    waiting(
      "deleteTable",
      undefined,
      Effect.map(describe, () => false).pipe(
        Effect.catchIf(
          (error) => error.reason === "NotFound",
          () => Effect.succeed(true)
        )
      )
    )
  )

  return { createTable, describe, waitUntilActive, deleteTable }
}
