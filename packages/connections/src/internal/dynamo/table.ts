/** Typed tables over the wire: see `DynamoDb`. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Attribute from "./attribute.ts"
import { detailsOf, type Output } from "./client.ts"
import * as Faults from "./faults.ts"
import * as Partiql from "./partiql.ts"
import * as TableAdmin from "./tableAdmin.ts"
import * as TableBatches from "./tableBatches.ts"
import * as TableItems from "./tableItems.ts"
import type { Call, Indexes, Names, Table, TableDefinition } from "./tableModel.ts"
import * as TableQueries from "./tableQueries.ts"
import * as TableWrites from "./tableWrites.ts"
import * as Transactions from "./transactions.ts"

export const plainItem = (item: unknown): Option.Option<Readonly<Record<string, unknown>>> =>
  item === undefined ? Option.none() : Either.getRight(Attribute.unmarshalMap(item))

export const makeService = (call: Call, connection: string) => {
  const faults = Faults.make(connection)

  const table = <
    A extends object,
    I extends object,
    const PK extends Names<A, I>,
    const SK extends Names<A, I> = never,
    const Ix extends Indexes<Names<A, I>> = Readonly<Record<never, never>>
  >(
    definition: TableDefinition<A, I, PK, SK, Ix>
  ): Table<A, I, PK, SK, Ix> => {
    const { name, schema } = definition
    const items = TableItems.make(definition, faults)
    return {
      name,
      get: (key, options) =>
        Effect.flatMap(items.wireKey("GetItem", key), (wire) =>
          Effect.flatMap(
            call(
              "GetItem",
              { TableName: name, Key: wire, ...(options?.consistent === true ? { ConsistentRead: true } : {}) },
              true
            ),
            (output) => items.readOption("GetItem", output["Item"])
          )
        ),
      ...TableWrites.make<A, I, PK, SK>(definition, items, faults, call),
      ...TableQueries.make(definition, items, faults, call),
      ...TableBatches.make<A, I, PK, SK>(definition, items, call),
      ...TableAdmin.make(definition, items, faults, call),
      oldItem: (error) => {
        const value = plainItem(detailsOf(error).item)
        return Option.flatMap(value, Schema.decodeUnknownOption(schema))
      }
    }
  }

  return {
    request: (operation: string, input: Output, options?: { readonly idempotent?: boolean | undefined }) =>
      call(
        operation,
        input,
        options?.idempotent ?? /^(Get|BatchGet|Query|Scan|Describe|List|TransactGet)/.test(operation)
      ),
    table,
    ...Transactions.make(faults, call),
    partiql: Partiql.make(faults, call)
  }
}
