/** What typed tables are: see `DynamoDb`. */
import type { ConnectionError } from "@underlay/core/connection/Connection"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"
import type * as Attribute from "./attribute.ts"
import type { Output } from "./client.ts"
import type * as Expression from "./expression.ts"
import type { PathOf, ValueAt } from "./paths.ts"

/** Sends one request; says whether it may be sent twice. */
export type Call = (operation: string, input: Output, idempotent: boolean) => Effect.Effect<Output, ConnectionError>

/**
 * An attribute by its path: `"a.b[0].c"`, or a list of its parts where names have dots or brackets in them.
 */
export type At<I> = PathOf<I> | Expression.Path

export type Value<I, P> = P extends string ? ValueAt<I, P> : unknown

/** What a list at a path holds. */
export type ElementAt<I, P> = P extends string ? (ValueAt<I, P> extends ReadonlyArray<infer E> ? E : unknown) : unknown

/**
 * Makes conditions. They speak of items as they are stored: by the encoded side of the table's schema.
 *
 * @since 0.1.0
 * @category models
 */
export interface On<I> {
  readonly eq: <const P extends At<I>>(path: P, value: Value<I, P>) => Expression.Condition
  readonly ne: <const P extends At<I>>(path: P, value: Value<I, P>) => Expression.Condition
  readonly lt: <const P extends At<I>>(path: P, value: Value<I, P>) => Expression.Condition
  readonly lte: <const P extends At<I>>(path: P, value: Value<I, P>) => Expression.Condition
  readonly gt: <const P extends At<I>>(path: P, value: Value<I, P>) => Expression.Condition
  readonly gte: <const P extends At<I>>(path: P, value: Value<I, P>) => Expression.Condition
  /** Both ends count. */
  readonly between: <const P extends At<I>>(path: P, low: Value<I, P>, high: Value<I, P>) => Expression.Condition
  /** One of these; of none it is never so. */
  readonly in: <const P extends At<I>>(path: P, values: ReadonlyArray<Value<I, P>>) => Expression.Condition
  readonly exists: <const P extends At<I>>(path: P) => Expression.Condition
  readonly notExists: <const P extends At<I>>(path: P) => Expression.Condition
  /** `S`, `N`, `B`, `BOOL`, `NULL`, `M`, `L`, `SS`, `NS`, `BS`. */
  readonly type: <const P extends At<I>>(
    path: P,
    type: "S" | "N" | "B" | "BOOL" | "NULL" | "M" | "L" | "SS" | "NS" | "BS"
  ) => Expression.Condition
  readonly beginsWith: <const P extends At<I>>(path: P, prefix: string) => Expression.Condition
  /** A part of a text, or an element of a set or list. */
  readonly contains: <const P extends At<I>>(path: P, value: unknown) => Expression.Condition
  /** The length of a text, the bytes of a binary, the elements of what has elements. */
  readonly size: <const P extends At<I>>(
    path: P,
    operator: Expression.Comparison,
    value: number
  ) => Expression.Condition
  readonly and: (...all: ReadonlyArray<Expression.Condition>) => Expression.Condition
  readonly or: (...all: ReadonlyArray<Expression.Condition>) => Expression.Condition
  readonly not: (one: Expression.Condition) => Expression.Condition
}

/**
 * Makes the actions of an update, of values as they are stored.
 *
 * @since 0.1.0
 * @category models
 */
export interface Actions<I> {
  readonly set: <const P extends At<I>>(path: P, value: Value<I, P>) => Expression.Action
  readonly setIfAbsent: <const P extends At<I>>(path: P, value: Value<I, P>) => Expression.Action
  readonly remove: <const P extends At<I>>(path: P) => Expression.Action
  /** Adds to a number (which is 0 where it is not there), or elements to a set. */
  readonly add: <const P extends At<I>>(
    path: P,
    value: number | bigint | Attribute.Exact | ReadonlySet<unknown>
  ) => Expression.Action
  /** Counts a number that is there; with `initial` one that is not begins with that. */
  readonly increment: <const P extends At<I>>(
    path: P,
    by: number | bigint | Attribute.Exact,
    initial?: number | bigint | Attribute.Exact
  ) => Expression.Action
  /** Takes elements out of a set. */
  readonly deleteFrom: <const P extends At<I>>(path: P, elements: ReadonlySet<unknown>) => Expression.Action
  /** Adds to the end of a list, which is made if it is not there. */
  readonly append: <const P extends At<I>>(path: P, values: ReadonlyArray<ElementAt<I, P>>) => Expression.Action
  readonly prepend: <const P extends At<I>>(path: P, values: ReadonlyArray<ElementAt<I, P>>) => Expression.Action
}

/** A condition on a sort key. */
export type KeyCondition = (name: Expression.Path, encode: (value: unknown) => unknown) => Expression.Condition

/**
 * Makes conditions on the sort key of a query.
 *
 * @since 0.1.0
 * @category models
 */
export interface OnKey<V> {
  readonly eq: (value: V) => KeyCondition
  readonly lt: (value: V) => KeyCondition
  readonly lte: (value: V) => KeyCondition
  readonly gt: (value: V) => KeyCondition
  readonly gte: (value: V) => KeyCondition
  /** Both ends count. */
  readonly between: (low: V, high: V) => KeyCondition
  readonly beginsWith: (prefix: string) => KeyCondition
}

/** Names that a schema has on both of its sides. */
export type Names<A, I> = keyof A & keyof I & string

/**
 * An index of a table: a global one, or a local one of the table's own partition key. It projects all attributes.
 *
 * @since 0.1.0
 * @category models
 */
export interface Index<Name extends string = string> {
  readonly partitionKey: Name
  readonly sortKey?: Name | undefined
  readonly local?: boolean | undefined
}

export type Indexes<Name extends string> = Readonly<Record<string, Index<Name>>>

/**
 * What a table is. Its key attributes have one name on both sides of the schema.
 *
 * @since 0.1.0
 * @category models
 */
export interface TableDefinition<
  A,
  I,
  PK extends Names<A, I>,
  SK extends Names<A, I>,
  Ix extends Indexes<Names<A, I>>
> {
  readonly name: string
  readonly schema: Schema.Schema<A, I>
  readonly partitionKey: PK
  readonly sortKey?: SK | undefined
  readonly indexes?: Ix | undefined
  /** The attribute by which items expire, in whole seconds since 1970: `createTable` switches it on. */
  readonly timeToLive?: (keyof I & string) | undefined
}

/**
 * What names an item.
 *
 * @since 0.1.0
 * @category models
 */
export type KeyOf<A, PK extends keyof A, SK extends keyof A> = { readonly [K in PK | SK]: A[K] }

/**
 * @since 0.1.0
 * @category models
 */
export interface ReadOptions {
  /** Whether all writes that were answered before are seen: false, at half the price. */
  readonly consistent?: boolean | undefined
}

export interface ConditionOptions<I> {
  /** What must hold of the item that stands there, or the call is a `Conflict`. */
  readonly condition?: ((on: On<I>) => Expression.Condition) | undefined
  /** Whether a `Conflict` comes with the item that stands there: see `oldItem`. */
  readonly returnOld?: boolean | undefined
  /** Whether it may be sent twice, where it would be sent once. */
  readonly idempotent?: boolean | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface PutOptions<I> extends ConditionOptions<I> {
  /** `old`: the item that was replaced. */
  readonly returnValues?: "none" | "old" | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface DeleteOptions<I> extends ConditionOptions<I> {
  /** `old`: the item that was deleted. */
  readonly returnValues?: "none" | "old" | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface UpdateOptions<I> extends ConditionOptions<I> {
  /** `new`: the item as it is now; `old`: as it was. */
  readonly returnValues?: "none" | "old" | "new" | undefined
}

export interface ListOptions<I> {
  /** What the items must be. What does not pass is read and paid for all the same. */
  readonly filter?: ((on: On<I>) => Expression.Condition) | undefined
  readonly consistent?: boolean | undefined
  /** Items at the most. */
  readonly limit?: number | undefined
  /** Items that are read for one page, at the most: as many as 1 MB holds. */
  readonly pageSize?: number | undefined
  /** Goes on behind a page: its `cursor`. */
  readonly after?: string | undefined
}

export type PartitionOf<A, PK, Ix, N> = N extends keyof Ix
  ? Ix[N] extends { readonly partitionKey: infer K }
    ? K extends keyof A
      ? A[K]
      : never
    : never
  : PK extends keyof A
    ? A[PK]
    : never

export type SortOf<A, SK, Ix, N> = N extends keyof Ix
  ? Ix[N] extends { readonly sortKey: infer K }
    ? K extends keyof A
      ? A[K]
      : never
    : never
  : SK extends keyof A
    ? A[SK]
    : never

/**
 * @since 0.1.0
 * @category models
 */
export interface QueryOptions<A, I, PK, SK, Ix, N> extends ListOptions<I> {
  readonly index?: N | undefined
  readonly partition: PartitionOf<A, PK, Ix, N>
  readonly sort?: ((on: OnKey<SortOf<A, SK, Ix, N>>) => KeyCondition) | undefined
  /** By the sort key: ascending. */
  readonly order?: "ascending" | "descending" | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface ScanOptions<I, N> extends ListOptions<I> {
  readonly index?: N | undefined
  /** Parts of the table that are read at once, 1 to 1,000,000: 1. With more there is no order and no `after`. */
  readonly segments?: number | undefined
}

/**
 * One page: what passed the filter, how many were read for it, and where the next one begins.
 *
 * @since 0.1.0
 * @category models
 */
export interface Page<A> {
  readonly items: ReadonlyArray<A>
  readonly scanned: number
  readonly cursor: Option.Option<string>
}

/**
 * What became of a batch: what the service did not get to, however often it was asked, is left.
 *
 * @since 0.1.0
 * @category models
 */
export interface BatchResult<A, Key> {
  /** In the order of the keys. What is left is none here. */
  readonly items: ReadonlyArray<Option.Option<A>>
  readonly left: ReadonlyArray<Key>
}

/**
 * Items to write and keys to delete; of several for one key the last one counts, deletions after items.
 *
 * @since 0.1.0
 * @category models
 */
export interface WriteBatch<A, Key> {
  readonly put?: ReadonlyArray<A> | undefined
  readonly delete?: ReadonlyArray<Key> | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface TableDescription {
  readonly status: string
  /** Of each index. */
  readonly indexes: Readonly<Record<string, string>>
  /** As of some hours ago. */
  readonly itemCount: number
  readonly sizeBytes: number
}

/**
 * One operation of a transaction, made by a table's `transact`.
 *
 * @since 0.1.0
 * @category models
 */
export interface TransactWrite {
  readonly wire: Effect.Effect<Output, ConnectionError>
}

/**
 * One read of a transaction, made by a table's `transact`.
 *
 * @since 0.1.0
 * @category models
 */
export interface TransactGet<out A> {
  readonly wire: Effect.Effect<Output, ConnectionError>
  readonly read: (item: unknown) => Effect.Effect<A, ConnectionError>
}

export interface CreateOptions {
  /** Read and write units of table and indexes. Default: paid by the request. */
  readonly throughput?: { readonly read: number; readonly write: number } | undefined
  readonly timeout?: Duration.DurationInput | undefined
}

/**
 * A table whose items are of a schema.
 *
 * @since 0.1.0
 * @category models
 */
export interface Table<A, I, PK extends Names<A, I>, SK extends Names<A, I>, Ix extends Indexes<Names<A, I>>> {
  readonly name: string
  readonly get: (key: KeyOf<A, PK, SK>, options?: ReadOptions) => Effect.Effect<Option.Option<A>, ConnectionError>
  /** Writes the whole item. */
  readonly put: {
    (
      item: A,
      options: PutOptions<I> & { readonly returnValues: "old" }
    ): Effect.Effect<Option.Option<A>, ConnectionError>
    (
      item: A,
      options?: PutOptions<I> & { readonly returnValues?: "none" | undefined }
    ): Effect.Effect<void, ConnectionError>
  }
  /** Writes the item where there is none of its key; else it is a `Conflict`. */
  readonly insert: (
    item: A,
    options?: { readonly returnOld?: boolean | undefined }
  ) => Effect.Effect<void, ConnectionError>
  /** Changes an item, or makes it of its key and what is set. */
  readonly update: {
    (
      key: KeyOf<A, PK, SK>,
      actions: (to: Actions<I>) => ReadonlyArray<Expression.Action>,
      options: UpdateOptions<I> & { readonly returnValues: "new" }
    ): Effect.Effect<A, ConnectionError>
    (
      key: KeyOf<A, PK, SK>,
      actions: (to: Actions<I>) => ReadonlyArray<Expression.Action>,
      options: UpdateOptions<I> & { readonly returnValues: "old" }
    ): Effect.Effect<Option.Option<A>, ConnectionError>
    (
      key: KeyOf<A, PK, SK>,
      actions: (to: Actions<I>) => ReadonlyArray<Expression.Action>,
      options?: UpdateOptions<I> & { readonly returnValues?: "none" | undefined }
    ): Effect.Effect<void, ConnectionError>
  }
  readonly delete: {
    (
      key: KeyOf<A, PK, SK>,
      options: DeleteOptions<I> & { readonly returnValues: "old" }
    ): Effect.Effect<Option.Option<A>, ConnectionError>
    (
      key: KeyOf<A, PK, SK>,
      options?: DeleteOptions<I> & { readonly returnValues?: "none" | undefined }
    ): Effect.Effect<void, ConnectionError>
  }
  /** The items of one partition, page by page as they are asked for. */
  readonly query: <const N extends (keyof Ix & string) | undefined = undefined>(
    options: QueryOptions<A, I, PK, SK, Ix, N>
  ) => Stream.Stream<A, ConnectionError>
  readonly queryPages: <const N extends (keyof Ix & string) | undefined = undefined>(
    options: QueryOptions<A, I, PK, SK, Ix, N>
  ) => Stream.Stream<Page<A>, ConnectionError>
  /** All items, or those of an index. */
  readonly scan: (options?: ScanOptions<I, keyof Ix & string>) => Stream.Stream<A, ConnectionError>
  readonly scanPages: (options?: ScanOptions<I, keyof Ix & string>) => Stream.Stream<Page<A>, ConnectionError>
  /** Any number of keys, a hundred a request; what the service does not get to is asked for again, with growing pauses. */
  readonly getMany: (
    keys: ReadonlyArray<KeyOf<A, PK, SK>>,
    options?: ReadOptions
  ) => Effect.Effect<BatchResult<A, KeyOf<A, PK, SK>>, ConnectionError>
  /**
   * Any number of writes, 25 a request; what the service does not get to is sent again, with growing pauses, and what is
   * left of it then is given. Not atomic: when it fails some may have been done.
   */
  readonly writeMany: (
    batch: WriteBatch<A, KeyOf<A, PK, SK>>
  ) => Effect.Effect<WriteBatch<A, KeyOf<A, PK, SK>>, ConnectionError>
  /** Operations for `transactWrite` and `transactGet`. */
  readonly transact: {
    readonly put: (item: A, options?: Pick<PutOptions<I>, "condition" | "returnOld">) => TransactWrite
    readonly update: (
      key: KeyOf<A, PK, SK>,
      actions: (to: Actions<I>) => ReadonlyArray<Expression.Action>,
      options?: Pick<UpdateOptions<I>, "condition" | "returnOld">
    ) => TransactWrite
    readonly delete: (
      key: KeyOf<A, PK, SK>,
      options?: Pick<DeleteOptions<I>, "condition" | "returnOld">
    ) => TransactWrite
    /** Changes nothing; the condition must hold. */
    readonly check: (
      key: KeyOf<A, PK, SK>,
      condition: (on: On<I>) => Expression.Condition,
      options?: { readonly returnOld?: boolean | undefined }
    ) => TransactWrite
    readonly get: (key: KeyOf<A, PK, SK>) => TransactGet<A>
  }
  /** The item on which a condition failed, where `returnOld` asked for it. */
  readonly oldItem: (error: ConnectionError) => Option.Option<A>
  /** Creates the table with its indexes, waits until it is active, and switches its time to live on. */
  readonly createTable: (options?: CreateOptions) => Effect.Effect<void, ConnectionError>
  readonly describe: Effect.Effect<TableDescription, ConnectionError>
  /** Until the table and its indexes are active, or `Timeout` (2 minutes). */
  readonly waitUntilActive: (timeout?: Duration.DurationInput) => Effect.Effect<void, ConnectionError>
  /** Deletes the table, and waits until it is gone. */
  readonly deleteTable: Effect.Effect<void, ConnectionError>
}

/**
 * @since 0.1.0
 * @category models
 */
export type MakeTable = <
  A extends object,
  I extends object,
  const PK extends Names<A, I>,
  const SK extends Names<A, I> = never,
  const Ix extends Indexes<Names<A, I>> = Readonly<Record<never, never>>
>(
  definition: TableDefinition<A, I, PK, SK, Ix>
) => Table<A, I, PK, SK, Ix>
