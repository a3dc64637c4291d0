/**
 * What an event bus says and is asked: its errors, topics, events, groups, and what an adapter stores. Everything here
 * is part of `EventBus`.
 *
 * @since 0.1.0
 */
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"

/**
 * Why a bus could not do what it was asked.
 *
 * - `InvalidTopic`: the topic cannot be, or has another number of partitions where it is kept.
 * - `InvalidOptions`: an argument cannot be accepted.
 * - `InvalidEvent`: the event is not of the topic's schema, or cannot be written as JSON.
 * - `Undecodable`: what was read is not of the topic's schema. Only `stream` fails with it; a group has dead letters.
 * - `Unavailable`, `Timeout`: the store cannot be reached, or did not answer in time.
 * - `Rejected`: the store answered with a refusal.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Reason = Schema.Literal(
  "InvalidTopic",
  "InvalidOptions",
  "InvalidEvent",
  "Undecodable",
  "Unavailable",
  "Timeout",
  "Rejected"
)

/**
 * @since 0.1.0
 * @category models
 */
export type Reason = typeof Reason.Type

/**
 * A failure of a bus. `outcome` says whether the operation can have taken effect, `repeatable` whether it may be done
 * twice: everything but a publication without an id of one's own. The message never holds an event, a key or an id.
 *
 * @since 0.1.0
 * @category errors
 */
export class EventBusError extends Schema.TaggedError<EventBusError>("@underlay/core/events/EventBusError")(
  "EventBusError",
  {
    reason: Reason,
    method: Schema.String,
    description: Schema.String,
    outcome: Schema.Literal("not-done", "unknown"),
    repeatable: Schema.Boolean,
    cause: Schema.optionalWith(Schema.Defect, { exact: true })
  }
) {
  override get message(): string {
    const unknown = this.outcome === "unknown" ? " (it may have been done)" : ""
    return `EventBus.${this.method}: ${this.description}${unknown}`
  }

  /** Whether the same call can be made again. */
  get isRetryable(): boolean {
    if (this.reason !== "Unavailable" && this.reason !== "Timeout") return false
    return this.outcome === "not-done" || this.repeatable
  }
}

/**
 * What is kept of a topic. Without `unacknowledged: "drop"` nothing goes that a group of the topic has not acknowledged,
 * however many or old it is: a group that nobody needs any more must be removed.
 *
 * @since 0.1.0
 * @category models
 */
export interface Retention {
  /** Events that are kept in each partition, about. Default: 10,000. */
  readonly maxLength?: number | undefined
  /** How long events are kept, about. Default: as long as they are not too many. */
  readonly maxAge?: Duration.DurationInput | undefined
  /** Whether what a group has not acknowledged is kept beyond that. Default: `"keep"`. */
  readonly unacknowledged?: "keep" | "drop" | undefined
}

/**
 * Options of a topic.
 *
 * @since 0.1.0
 * @category models
 */
export interface TopicOptions<A, I> {
  /** At most 200 characters, without control characters and braces. */
  readonly name: string
  /** The events. What they are encoded to must be JSON. */
  readonly schema: Schema.Schema<A, I>
  /**
   * In how many partitions the topic is kept, 1 to 256: as many consumers of a group can work at the same time. It is
   * kept with the topic and cannot be changed there. Default: 8.
   */
  readonly partitions?: number | undefined
  readonly retention?: Retention | undefined
  /** How long an event's own id is known, so that publishing it again does nothing. Default: 10 minutes. */
  readonly deduplicateFor?: Duration.DurationInput | undefined
  /** Dead letters that are kept for each group and partition; the oldest go first. Default: 10,000. */
  readonly maxDeadLetters?: number | undefined
  /**
   * A partition to which nobody publishes and which nobody reads for so long is forgotten, with all that is in it and
   * with its dead letters. Default: 90 days.
   */
  readonly forgetAfter?: Duration.DurationInput | undefined
}

/**
 * A topic: its name, the schema of its events and how they are kept. A value; the store learns of it when it is used.
 *
 * @since 0.1.0
 * @category models
 */
export interface Topic<A, I = unknown> {
  readonly name: string
  readonly schema: Schema.Schema<A, I>
  readonly settings: TopicSettings
  /** Why it cannot be: every operation on it fails as `InvalidTopic`. */
  readonly problem: string | undefined
}

/**
 * How an event is published.
 *
 * @since 0.1.0
 * @category models
 */
export interface PublishOptions {
  /** The ordering key: events with the same one are handled in the order of their publication. At most 1,024 characters. */
  readonly key?: string | undefined
  /**
   * The event's own id. Publishing it again (with the same key) within the time of `deduplicateFor` does nothing, so that
   * a publication whose outcome is unknown can be repeated. At most 512 characters. Default: a random one.
   */
  readonly id?: string | undefined
  /** What goes with the event, for instance a correlation id. */
  readonly headers?: Readonly<Record<string, string>> | undefined
}

/**
 * One of several events that are published together.
 *
 * @since 0.1.0
 * @category models
 */
export interface Publication<A> extends PublishOptions {
  readonly event: A
}

/**
 * What became of a publication. `position` is where the event is in the topic.
 *
 * @since 0.1.0
 * @category models
 */
export interface Published {
  readonly id: string
  readonly position: string
  /** The event was there already, at that position. */
  readonly duplicate: boolean
}

/**
 * An event as it is handed out.
 *
 * @since 0.1.0
 * @category models
 */
export interface Message<A> {
  readonly topic: string
  readonly id: string
  readonly key: string | undefined
  readonly headers: Readonly<Record<string, string>>
  /** Where it is in the topic: `<id in the partition>@<partition>`. */
  readonly position: string
  /** When it was published, in milliseconds since 1970, by the store's clock. */
  readonly publishedAt: number
  /** How often it was handed to the group, this time included. 1 where there is no group. */
  readonly deliveries: number
  readonly event: A
}

/**
 * Where to begin: with the oldest event that is kept, after the newest, at a time (milliseconds since 1970, by the
 * store's clock; one to come is the end), or at a position, which is included. In the other partitions a position means
 * its time.
 *
 * @since 0.1.0
 * @category models
 */
export type From = "beginning" | "end" | { readonly at: number | Date } | { readonly position: string }

/**
 * How a group handles a topic.
 *
 * @since 0.1.0
 * @category models
 */
export interface SubscribeOptions {
  /** Every group gets every event; within a group each is handled by one consumer. At most 200 characters. */
  readonly group: string
  /** The name of this consumer, for those who look at the group. Default: a random one. */
  readonly consumer?: string | undefined
  /** Where a group begins that has not been there before. Default: `"beginning"`, so that nothing is missed. */
  readonly from?: From | undefined
  /** Handlers of this consumer that run at the same time. Default: 16. */
  readonly concurrency?: number | undefined
  /** Events that are taken from a partition at once. Default: 100. */
  readonly prefetch?: number | undefined
  /**
   * Events of a partition that are taken and not yet done. When so many wait for one that is being retried, the partition
   * waits with them. Default: 1,000.
   */
  readonly maxUnsettled?: number | undefined
  /**
   * How often an event is handed out before it becomes a dead letter. One that a crashed consumer had taken is handed out
   * at least once more, whether or not it was begun. Default: 5.
   */
  readonly maxDeliveries?: number | undefined
  /**
   * The pause after a failed delivery; later events with the same key wait with it, others do not. Default: 1 second,
   * doubled each time, at most 30 seconds.
   */
  readonly retryDelay?: Duration.DurationInput | ((deliveries: number) => Duration.DurationInput) | undefined
  /**
   * How long a consumer can be silent before what it had is claimed by others. It says that it lives ten times within
   * it, however long its handlers take. A partition that goes to another consumer, because one has come, waits so long
   * for handlers that run, and interrupts them then. Default: 30 seconds.
   */
  readonly claimAfter?: Duration.DurationInput | undefined
  /** How often to look for events that were not announced. Default: 5 seconds. */
  readonly pollInterval?: Duration.DurationInput | undefined
}

/**
 * Plain counters of one subscription, read on demand.
 *
 * @since 0.1.0
 * @category models
 */
export interface SubscriptionStats {
  /** Deliveries that succeeded. */
  readonly handled: number
  /** Deliveries whose handler failed. */
  readonly failed: number
  readonly deadLettered: number
  /** Events that were found with a consumer that is gone, or had been given back. */
  readonly claimed: number
  /** Partitions that were lost because this consumer was silent for too long. */
  readonly lost: number
  /** Calls of the store that failed; the subscription goes on, and makes them again. */
  readonly storeErrors: number
  readonly lastStoreError: Option.Option<EventBusError>
  /** Handlers that run now. */
  readonly running: number
  /** Events that are taken and not yet done. */
  readonly unsettled: number
  /** The partitions that this consumer reads now. */
  readonly partitions: ReadonlyArray<number>
}

/**
 * A running subscription. It ends with its scope.
 *
 * @since 0.1.0
 * @category models
 */
export interface Subscription {
  readonly group: string
  readonly consumer: string
  readonly stats: Effect.Effect<SubscriptionStats>
}

/**
 * How to read a topic without a group.
 *
 * @since 0.1.0
 * @category models
 */
export interface StreamOptions {
  /** Default: `"beginning"`. */
  readonly from?: From | undefined
  /** Whether to wait for what is published later (default), or to end with the newest event. */
  readonly follow?: boolean | undefined
  /**
   * What to do with an event that is not of the topic's schema. Default: `"fail"`, as `Undecodable`, behind all that
   * comes before it.
   */
  readonly undecodable?: "fail" | "skip" | undefined
  /** Events that are read from a partition at once. Default: 100. */
  readonly pageSize?: number | undefined
  /** How often to look for events that were not announced. Default: 5 seconds. */
  readonly pollInterval?: Duration.DurationInput | undefined
}

/**
 * Why an event became a dead letter.
 *
 * - `Failed`: its handler failed each time.
 * - `Undecodable`: it is not of the topic's schema.
 * - `Abandoned`: it was handed out as often as it may be, and no consumer came back from it.
 *
 * @since 0.1.0
 * @category schemas
 */
export const DeadReason = Schema.Literal("Failed", "Undecodable", "Abandoned")

/**
 * @since 0.1.0
 * @category models
 */
export type DeadReason = typeof DeadReason.Type

/**
 * An event that a group could not handle.
 *
 * @since 0.1.0
 * @category models
 */
export interface DeadLetter<A> {
  /** Names it for `replay` and `drop`. */
  readonly letter: string
  readonly id: string
  readonly key: string | undefined
  readonly headers: Readonly<Record<string, string>>
  /** Where the event was in the topic. */
  readonly position: string
  readonly publishedAt: number
  readonly deadAt: number
  readonly deliveries: number
  readonly reason: DeadReason
  /** What the last failure said, at most 1,000 characters; it can quote the event. */
  readonly description: string
  /** The event as it is stored. */
  readonly data: string
  /** The event, where it is of the schema. */
  readonly event: Option.Option<A>
}

/**
 * The dead letters of a group.
 *
 * @since 0.1.0
 * @category models
 */
export interface DeadLetters<A> {
  readonly count: Effect.Effect<number, EventBusError>
  /** The oldest first, by partitions; `after` is the letter to go on from. Default: at most 100. */
  readonly read: (options?: {
    readonly after?: string | undefined
    readonly limit?: number | undefined
  }) => Effect.Effect<ReadonlyArray<DeadLetter<A>>, EventBusError>
  /**
   * Publishes them again with their ids and keys, to this group alone and behind all that is there, and counts their
   * deliveries anew. Gives the number of letters.
   */
  readonly replay: (letters: ReadonlyArray<string> | "all") => Effect.Effect<number, EventBusError>
  /** Removes them. Gives their number. */
  readonly drop: (letters: ReadonlyArray<string> | "all") => Effect.Effect<number, EventBusError>
}

/**
 * How a group stands in one partition.
 *
 * @since 0.1.0
 * @category models
 */
export interface PartitionStats {
  readonly partition: number
  /** Events that are kept. */
  readonly length: number
  /** Events that were not handed to the group yet. */
  readonly lag: number
  /** Events that were handed out and not acknowledged yet. */
  readonly pending: number
  readonly deadLetters: number
  /** Who reads it now. */
  readonly consumer: string | undefined
}

/**
 * How a group stands: the sums, and each partition.
 *
 * @since 0.1.0
 * @category models
 */
export interface GroupStats {
  readonly length: number
  readonly lag: number
  readonly pending: number
  readonly deadLetters: number
  readonly partitions: ReadonlyArray<PartitionStats>
}

/**
 * What an event bus does. `make` builds it on a backend.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  /** Publishes an event. It is kept when this returns. */
  readonly publish: <A, I>(
    topic: Topic<A, I>,
    event: A,
    options?: PublishOptions
  ) => Effect.Effect<Published, EventBusError>
  /**
   * Publishes several in their order; those of one partition together, up to 500 at once, or none of them. When it fails,
   * some can have been published: with ids of their own, publish all of them again. What an outbox needs.
   */
  readonly publishAll: <A, I>(
    topic: Topic<A, I>,
    publications: ReadonlyArray<Publication<A>>
  ) => Effect.Effect<ReadonlyArray<Published>, EventBusError>
  /**
   * Handles the events of a topic for a group until the scope closes. When it returns, the group is there: it gets every
   * event from then on. A handler that succeeds acknowledges its event; one that fails or dies gets it again, after
   * `retryDelay`. When the scope closes, handlers are interrupted and their events given back at once, and this delivery
   * does not count. While the store is away, the subscription waits for it; events whose handler is done are
   * acknowledged when it is back, if the lease has not run out.
   */
  readonly subscribe: <A, I>(
    topic: Topic<A, I>,
    options: SubscribeOptions
  ) => <E, R>(
    handler: (message: Message<A>) => Effect.Effect<unknown, E, R>
  ) => Effect.Effect<Subscription, EventBusError, R | Scope.Scope>
  /**
   * Reads a topic without a group, and so without acknowledging anything: to replay, to follow, to look. Each partition
   * is in order; what is there when it begins comes in the order of the store's clock. Events that were replayed to one
   * group are left out.
   */
  readonly stream: <A, I>(topic: Topic<A, I>, options?: StreamOptions) => Stream.Stream<Message<A>, EventBusError>
  readonly deadLetters: <A, I>(topic: Topic<A, I>, group: string) => DeadLetters<A>
  /** Makes a group go on from elsewhere: the replay of a group. What is being handled now is not affected. */
  readonly seek: <A, I>(topic: Topic<A, I>, group: string, from: From) => Effect.Effect<void, EventBusError>
  /** The groups of a topic. */
  readonly groups: <A, I>(topic: Topic<A, I>) => Effect.Effect<ReadonlyArray<string>, EventBusError>
  readonly stats: <A, I>(topic: Topic<A, I>, group: string) => Effect.Effect<GroupStats, EventBusError>
  /** Forgets a group: what it has not acknowledged, and its dead letters. Its consumers must have ended. */
  readonly removeGroup: <A, I>(topic: Topic<A, I>, group: string) => Effect.Effect<void, EventBusError>
  /** Trims now, by the topic's retention or another, and gives the number of events that went. */
  readonly trim: <A, I>(topic: Topic<A, I>, retention?: Retention) => Effect.Effect<number, EventBusError>
}

/**
 * How a topic is kept, decoded and with every default. Times are whole milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface TopicSettings {
  readonly name: string
  readonly partitions: number
  readonly retention: RetentionSettings
  readonly deduplicateFor: number
  readonly maxDeadLetters: number
  readonly forgetAfter: number
}

/**
 * @since 0.1.0
 * @category models
 */
export interface RetentionSettings {
  readonly maxLength: number
  /** `undefined`: however old. */
  readonly maxAge: number | undefined
  readonly unacknowledged: "keep" | "drop"
}

/**
 * An event to write. `unique`: its id is its publisher's own, and an event with that id may be there already.
 *
 * @since 0.1.0
 * @category models
 */
export interface NewEntry {
  readonly id: string
  readonly unique: boolean
  readonly key: string | undefined
  readonly headers: string | undefined
  readonly data: string
}

/**
 * An event as it is stored. `position` is that within its partition; positions of a partition grow by `comparePositions`.
 * What another program left out is the empty text.
 *
 * @since 0.1.0
 * @category models
 */
export interface StoredEntry {
  readonly position: string
  readonly id: string
  readonly key: string | undefined
  readonly headers: string | undefined
  readonly data: string
  /** When it was first published, where it was replayed. */
  readonly publishedAt: number | undefined
  /** The only group that is to get it. */
  readonly only: string | undefined
}

/**
 * A consumer of a group. `token` is of this one subscription alone: leases are held under it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Member {
  readonly group: string
  readonly consumer: string
  readonly token: string
}

/**
 * What a consumer learns when it says that it lives. A partition that is in none of the lists is held by somebody else,
 * or nobody knows.
 *
 * @since 0.1.0
 * @category models
 */
export interface Beat {
  /** The tokens of all consumers of the group that live, in no certain order. */
  readonly members: ReadonlyArray<string>
  /** Of those held: the ones whose lease was prolonged. */
  readonly kept: ReadonlyArray<number>
  /** Of those held: the ones that are somebody else's or nobody's by now. */
  readonly lost: ReadonlyArray<number>
  /** Of the others: those without a lease. */
  readonly free: ReadonlyArray<number>
}

/**
 * What holding a lease gave; `"lost"`: the lease is not held any more, and nothing was done; `"no-group"`: the group is
 * not there any more, and must be opened again.
 *
 * @since 0.1.0
 * @category models
 */
export type Leased<A> = { readonly value: A } | "lost" | "no-group"

/**
 * Events that were handed out before, with the number of times, and where to look for more.
 *
 * @since 0.1.0
 * @category models
 */
export interface Adopted {
  readonly entries: ReadonlyArray<{ readonly entry: StoredEntry; readonly deliveries: number }>
  readonly next: string | undefined
}

/**
 * A dead letter as it is stored.
 *
 * @since 0.1.0
 * @category models
 */
export interface StoredLetter {
  /** Its position among the dead letters of its partition. */
  readonly letter: string
  readonly entry: StoredEntry
  readonly deadAt: number
  readonly deliveries: number
  readonly reason: DeadReason
  readonly description: string
}

/**
 * What an adapter stores: partitions of entries, groups with what they have not acknowledged, leases, and dead letters.
 * Each operation is one step for whoever looks on. Times are whole milliseconds; leases and retention go by the store's
 * clock. A start is a position, exclusive; `"$"` means the end.
 *
 * @since 0.1.0
 * @category models
 */
export interface Backend {
  /** Keeps the number of partitions, if none is kept yet, and gives the one that is. */
  readonly declare: (topic: TopicSettings) => Effect.Effect<number, EventBusError>
  /** All or none, in order. Trims by the topic's retention as it goes. */
  readonly append: (
    topic: TopicSettings,
    partition: number,
    entries: ReadonlyArray<NewEntry>
  ) => Effect.Effect<ReadonlyArray<{ readonly position: string; readonly duplicate: boolean }>, EventBusError>
  /** Makes the group in every partition that has a start and where it is not, to begin at that start. */
  readonly open: (
    topic: TopicSettings,
    group: string,
    starts: ReadonlyArray<string | undefined>
  ) => Effect.Effect<void, EventBusError>
  /** Says that the consumer lives, and prolongs its leases for `ttl`. A new consumer rings for the others. */
  readonly beat: (
    topic: TopicSettings,
    member: Member,
    ttl: number,
    held: ReadonlyArray<number>
  ) => Effect.Effect<Beat, EventBusError>
  /** Takes the lease of a partition that nobody holds; whether it was taken. */
  readonly acquire: (
    topic: TopicSettings,
    member: Member,
    ttl: number,
    partition: number
  ) => Effect.Effect<boolean, EventBusError>
  /**
   * Acknowledges what is done, sets the deliveries of what is given back, and ends the lease if it is held. What was
   * handed out from after `unseen` on (exclusive; undefined: nothing) was never delivered. Rings for the other consumers.
   */
  readonly release: (
    topic: TopicSettings,
    member: Member,
    partition: number,
    done: ReadonlyArray<string>,
    returned: ReadonlyArray<{ readonly position: string; readonly deliveries: number }>,
    unseen: string | undefined
  ) => Effect.Effect<void, EventBusError>
  /** The consumer ends: it is none of the group's any more. Rings for the others. */
  readonly leave: (topic: TopicSettings, member: Member) => Effect.Effect<void, EventBusError>
  /** What the group was handed and has not acknowledged, from a position on (inclusive), whoever had it. */
  readonly adopt: (
    topic: TopicSettings,
    member: Member,
    partition: number,
    from: string,
    count: number
  ) => Effect.Effect<Leased<Adopted>, EventBusError>
  /** What comes next for the group. It counts as delivered once. */
  readonly read: (
    topic: TopicSettings,
    member: Member,
    partition: number,
    count: number
  ) => Effect.Effect<Leased<ReadonlyArray<StoredEntry>>, EventBusError>
  /** Sets the number of deliveries of what is about to be handed out again. */
  readonly begin: (
    topic: TopicSettings,
    member: Member,
    partition: number,
    position: string,
    deliveries: number
  ) => Effect.Effect<Leased<void>, EventBusError>
  readonly acknowledge: (
    topic: TopicSettings,
    group: string,
    partition: number,
    positions: ReadonlyArray<string>
  ) => Effect.Effect<void, EventBusError>
  /** Acknowledges an entry and keeps it as a dead letter. Nothing happens where it is acknowledged already. */
  readonly bury: (
    topic: TopicSettings,
    group: string,
    partition: number,
    letter: Omit<StoredLetter, "letter" | "deadAt">
  ) => Effect.Effect<void, EventBusError>
  /** Entries after a position (exclusive), oldest first. */
  readonly range: (
    topic: TopicSettings,
    partition: number,
    after: string,
    count: number
  ) => Effect.Effect<ReadonlyArray<StoredEntry>, EventBusError>
  /** The position of the newest entry that each partition has ever had. */
  readonly ends: (topic: TopicSettings) => Effect.Effect<ReadonlyArray<string>, EventBusError>
  /** Dead letters after one (exclusive), oldest first. */
  readonly letters: (
    topic: TopicSettings,
    group: string,
    partition: number,
    after: string,
    count: number
  ) => Effect.Effect<ReadonlyArray<StoredLetter>, EventBusError>
  /** Appends them for the group alone and removes them; the number of those that were there. */
  readonly replay: (
    topic: TopicSettings,
    group: string,
    partition: number,
    letters: ReadonlyArray<string>
  ) => Effect.Effect<number, EventBusError>
  readonly drop: (
    topic: TopicSettings,
    group: string,
    partition: number,
    letters: ReadonlyArray<string>
  ) => Effect.Effect<number, EventBusError>
  /** Sets where the group goes on, and makes it where it is not. Rings. */
  readonly seek: (
    topic: TopicSettings,
    group: string,
    starts: ReadonlyArray<string>
  ) => Effect.Effect<void, EventBusError>
  readonly groups: (topic: TopicSettings) => Effect.Effect<ReadonlyArray<string>, EventBusError>
  readonly stats: (topic: TopicSettings, group: string) => Effect.Effect<ReadonlyArray<PartitionStats>, EventBusError>
  readonly removeGroup: (topic: TopicSettings, group: string) => Effect.Effect<void, EventBusError>
  /** Trims one partition by a bounded number of entries and gives that number; 0 when there is nothing to trim. */
  readonly trim: (
    topic: TopicSettings,
    partition: number,
    retention: RetentionSettings
  ) => Effect.Effect<number, EventBusError>
  /**
   * Rings until the scope closes: with a partition where something may be new, with `"members"` when consumers or leases
   * of a group have changed, with `"all"` when something may have been missed. Nobody relies on it alone.
   */
  readonly bell: (
    topic: TopicSettings,
    ring: (what: number | "members" | "all") => void
  ) => Effect.Effect<void, EventBusError, Scope.Scope>
}
