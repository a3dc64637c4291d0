/**
 * Events from those who publish to groups of those who handle them: at least once, in order for each ordering key, with
 * dead letters for what cannot be handled. A port of the internal plane: nothing is emitted per operation.
 *
 * **Order.** A topic has partitions. Events with the same ordering key are in the same partition, in the order in which
 * they were published. A partition is read by one consumer of a group at a time, who holds a lease on it; that consumer
 * handles events with different keys at the same time, and those with the same key one after another. An event without a
 * key is in no order with others.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Layer from "effect/Layer"
import * as Bus from "../internal/events/bus.ts"
import * as Memory from "../internal/events/memory.ts"
import type { Backend, Service, Topic, TopicOptions } from "../internal/events/model.ts"
import * as Topics from "../internal/events/topics.ts"

export * from "../internal/events/model.ts"

/**
 * Describes a topic. What cannot be is told by the first operation on it.
 *
 * ```ts
 * const orders = EventBus.topic({ name: "orders", schema: Order })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const topic = <A, I>(options: TopicOptions<A, I>): Topic<A, I> => Topics.make(options)

/**
 * The partition of an ordering key: FNV-1a (32 bits) of its UTF-8 bytes, modulo the number of partitions. Programs in
 * other languages that publish to the same topic must choose the same one.
 *
 * @since 0.1.0
 * @category combinators
 */
export const partitionOf = (key: string, partitions: number): number => Topics.partitionOf(key, partitions)

/**
 * The event bus of an application.
 *
 * @since 0.1.0
 * @category tags
 */
export class EventBus extends Context.Tag("@underlay/core/EventBus")<EventBus, Service>() {}

/**
 * Which of two positions of one partition comes first: negative, zero or positive.
 *
 * @since 0.1.0
 * @category combinators
 */
export const comparePositions = (one: string, other: string): number => Topics.compare(one, other)

/**
 * Builds the port on a backend: checks arguments, encodes and decodes events, shares the partitions of a topic among the
 * consumers of a group, and runs handlers.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (backend: Backend): Service => Bus.make(backend)

/**
 * An event bus inside this process, by `Clock`. What is published is gone with the layer.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory: Layer.Layer<EventBus> = Layer.effect(EventBus, Memory.make)
