/** Writes of single items, alone and as parts of transactions. */
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import type { Output } from "./client.ts"
import * as Expression from "./expression.ts"
import type { Faults } from "./faults.ts"
import { on, to } from "./operators.ts"
import type { Definition, Items } from "./tableItems.ts"
import type {
  Actions,
  Call,
  ConditionOptions,
  DeleteOptions,
  Indexes,
  KeyOf,
  Names,
  On,
  PutOptions,
  Table,
  UpdateOptions
} from "./tableModel.ts"

export const make = <A extends object, I extends object, PK extends Names<A, I>, SK extends Names<A, I>>(
  definition: Definition<A, I>,
  items: Items<A, I>,
  faults: Faults,
  call: Call
) => {
  type Own = Table<A, I, PK, SK, Indexes<Names<A, I>>>
  const { name } = definition
  const { read, readOption, wireItem, wireKey } = items
  const { building } = faults

  const conditionFields = (
    given: {
      readonly condition?: ((on: On<I>) => Expression.Condition) | undefined
      readonly returnOld?: boolean | undefined
    },
    at: Expression.Placeholders
  ): Output => ({
    ...(given.condition === undefined ? {} : { ConditionExpression: Expression.condition(given.condition(on), at) }),
    ...(given.returnOld === true ? { ReturnValuesOnConditionCheckFailure: "ALL_OLD" } : {})
  })

  const putFields = (method: string, item: A, options: ConditionOptions<I>): Effect.Effect<Output, ConnectionError> =>
    Effect.flatMap(wireItem(method, item), (wire) =>
      building(method, () => {
        const at = new Expression.Placeholders()
        const fields = conditionFields(options, at)
        return { TableName: name, Item: wire, ...fields, ...at.fields }
      })
    )

  const deleteFields = (
    method: string,
    key: KeyOf<A, PK, SK>,
    options: ConditionOptions<I>
  ): Effect.Effect<Output, ConnectionError> =>
    Effect.flatMap(wireKey(method, key), (wire) =>
      building(method, () => {
        const at = new Expression.Placeholders()
        const fields = conditionFields(options, at)
        return { TableName: name, Key: wire, ...fields, ...at.fields }
      })
    )

  const updateFields = (
    method: string,
    key: KeyOf<A, PK, SK>,
    actions: (to: Actions<I>) => ReadonlyArray<Expression.Action>,
    options: ConditionOptions<I>
  ): Effect.Effect<{ readonly input: Output; readonly idempotent: boolean }, ConnectionError> =>
    Effect.flatMap(wireKey(method, key), (wire) =>
      building(method, () => {
        const at = new Expression.Placeholders()
        const made = actions(to)
        const text = Expression.update(made, at)
        const fields = conditionFields(options, at)
        return {
          input: { TableName: name, Key: wire, UpdateExpression: text, ...fields, ...at.fields },
          idempotent: options.condition === undefined && Expression.isIdempotent(made)
        }
      })
    )

  function put(
    item: A,
    options: PutOptions<I> & { readonly returnValues: "old" }
  ): Effect.Effect<Option.Option<A>, ConnectionError>
  function put(
    item: A,
    options?: PutOptions<I> & { readonly returnValues?: "none" | undefined }
  ): Effect.Effect<void, ConnectionError>
  function put(item: A, options: PutOptions<I> = {}): Effect.Effect<Option.Option<A> | undefined, ConnectionError> {
    const old = options.returnValues === "old"
    return Effect.flatMap(putFields("PutItem", item, options), (input) =>
      Effect.flatMap(
        call(
          "PutItem",
          old ? { ...input, ReturnValues: "ALL_OLD" } : input,
          options.idempotent ?? (options.condition === undefined && !old)
        ),
        (output) => (old ? readOption("PutItem", output["Attributes"]) : Effect.succeed(undefined))
      )
    )
  }

  function update(
    key: KeyOf<A, PK, SK>,
    actions: (to: Actions<I>) => ReadonlyArray<Expression.Action>,
    options: UpdateOptions<I> & { readonly returnValues: "new" }
  ): Effect.Effect<A, ConnectionError>
  function update(
    key: KeyOf<A, PK, SK>,
    actions: (to: Actions<I>) => ReadonlyArray<Expression.Action>,
    options: UpdateOptions<I> & { readonly returnValues: "old" }
  ): Effect.Effect<Option.Option<A>, ConnectionError>
  function update(
    key: KeyOf<A, PK, SK>,
    actions: (to: Actions<I>) => ReadonlyArray<Expression.Action>,
    options?: UpdateOptions<I> & { readonly returnValues?: "none" | undefined }
  ): Effect.Effect<void, ConnectionError>
  function update(
    key: KeyOf<A, PK, SK>,
    actions: (to: Actions<I>) => ReadonlyArray<Expression.Action>,
    options: UpdateOptions<I> = {}
  ): Effect.Effect<A | Option.Option<A> | undefined, ConnectionError> {
    const { returnValues = "none" } = options
    return Effect.flatMap(updateFields("UpdateItem", key, actions, options), ({ idempotent, input }) =>
      Effect.flatMap(
        call(
          "UpdateItem",
          returnValues === "none" ? input : { ...input, ReturnValues: returnValues === "new" ? "ALL_NEW" : "ALL_OLD" },
          options.idempotent ?? (idempotent && returnValues !== "old")
        ),
        (output): Effect.Effect<A | Option.Option<A> | undefined, ConnectionError> =>
          returnValues === "new"
            ? read("UpdateItem", output["Attributes"] ?? {})
            : returnValues === "old"
              ? readOption("UpdateItem", output["Attributes"])
              : Effect.succeed(undefined)
      )
    )
  }

  function remove(
    key: KeyOf<A, PK, SK>,
    options: DeleteOptions<I> & { readonly returnValues: "old" }
  ): Effect.Effect<Option.Option<A>, ConnectionError>
  function remove(
    key: KeyOf<A, PK, SK>,
    options?: DeleteOptions<I> & { readonly returnValues?: "none" | undefined }
  ): Effect.Effect<void, ConnectionError>
  function remove(
    key: KeyOf<A, PK, SK>,
    options: DeleteOptions<I> = {}
  ): Effect.Effect<Option.Option<A> | undefined, ConnectionError> {
    const old = options.returnValues === "old"
    return Effect.flatMap(deleteFields("DeleteItem", key, options), (input) =>
      Effect.flatMap(
        call(
          "DeleteItem",
          old ? { ...input, ReturnValues: "ALL_OLD" } : input,
          options.idempotent ?? (options.condition === undefined && !old)
        ),
        (output) => (old ? readOption("DeleteItem", output["Attributes"]) : Effect.succeed(undefined))
      )
    )
  }

  const insert: Own["insert"] = (item, options) =>
    put(item, { ...options, condition: () => on.notExists([definition.partitionKey]) })

  const transact: Own["transact"] = {
    put: (item, options) => ({
      wire: Effect.map(putFields("TransactWriteItems", item, options ?? {}), (fields) => ({ Put: fields }))
    }),
    update: (key, actions, options) => ({
      wire: Effect.map(updateFields("TransactWriteItems", key, actions, options ?? {}), ({ input }) => ({
        Update: input
      }))
    }),
    delete: (key, options) => ({
      wire: Effect.map(deleteFields("TransactWriteItems", key, options ?? {}), (fields) => ({ Delete: fields }))
    }),
    check: (key, condition, options) => ({
      wire: Effect.map(deleteFields("TransactWriteItems", key, { ...options, condition }), (fields) => ({
        ConditionCheck: fields
      }))
    }),
    get: (key) => ({
      wire: Effect.map(wireKey("TransactGetItems", key), (wire) => ({ Get: { TableName: name, Key: wire } })),
      read: (item) => read("TransactGetItems", item)
    })
  }

  return { put, insert, update, delete: remove, transact }
}
