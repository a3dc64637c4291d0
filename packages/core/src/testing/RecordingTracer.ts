/**
 * A tracer that keeps every span, with its parent, attributes, events, links and status.
 *
 * @since 0.1.0
 */
import type * as Context from "effect/Context"
import type * as Exit from "effect/Exit"
import type * as Option from "effect/Option"
import * as Tracer from "effect/Tracer"

/**
 * An event of a span.
 *
 * @since 0.1.0
 * @category models
 */
export interface RecordedEvent {
  readonly name: string
  readonly at: bigint
  readonly attributes: Readonly<Record<string, unknown>>
}

/**
 * A span as it was recorded. Its ids have the form that the W3C format wants.
 *
 * @since 0.1.0
 * @category models
 */
export class RecordedSpan implements Tracer.Span {
  readonly _tag = "Span"
  readonly name: string
  readonly spanId: string
  readonly traceId: string
  readonly parent: Option.Option<Tracer.AnySpan>
  readonly context: Context.Context<never>
  readonly kind: Tracer.SpanKind
  readonly sampled = true
  readonly attributes = new Map<string, unknown>()
  readonly events: Array<RecordedEvent> = []
  readonly links: Array<Tracer.SpanLink>
  status: Tracer.SpanStatus
  /** How often it was ended: once, if all is well. */
  ends = 0

  constructor(options: {
    readonly name: string
    readonly spanId: string
    readonly traceId: string
    readonly parent: Option.Option<Tracer.AnySpan>
    readonly context: Context.Context<never>
    readonly links: ReadonlyArray<Tracer.SpanLink>
    readonly startTime: bigint
    readonly kind: Tracer.SpanKind
  }) {
    this.name = options.name
    this.spanId = options.spanId
    this.traceId = options.traceId
    this.parent = options.parent
    this.context = options.context
    this.links = [...options.links]
    this.kind = options.kind
    this.status = { _tag: "Started", startTime: options.startTime }
  }

  end(endTime: bigint, exit: Exit.Exit<unknown, unknown>): void {
    this.ends++
    this.status = { _tag: "Ended", startTime: this.status.startTime, endTime, exit }
  }

  attribute(key: string, value: unknown): void {
    this.attributes.set(key, value)
  }

  event(name: string, at: bigint, attributes?: Record<string, unknown>): void {
    this.events.push({ name, at, attributes: attributes ?? {} })
  }

  addLinks(links: ReadonlyArray<Tracer.SpanLink>): void {
    this.links.push(...links)
  }
}

/**
 * A tracer and what it recorded, in the order in which the spans started.
 *
 * @since 0.1.0
 * @category models
 */
export interface RecordingTracer {
  readonly tracer: Tracer.Tracer
  readonly spans: ReadonlyArray<RecordedSpan>
  /** Forgets what was recorded. */
  readonly clear: () => void
}

/**
 * Makes one. Ids count up, so that they are the same in every run.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (): RecordingTracer => {
  const spans: Array<RecordedSpan> = []
  let ids = 0
  const id = (digits: number): string => (++ids).toString(16).padStart(digits, "0")
  return {
    spans,
    clear: () => {
      spans.length = 0
    },
    tracer: Tracer.make({
      span: (name, parent, context, links, startTime, kind) => {
        const span = new RecordedSpan({
          name,
          parent,
          context,
          links,
          startTime,
          kind,
          traceId: parent._tag === "Some" ? parent.value.traceId : id(32),
          spanId: id(16)
        })
        spans.push(span)
        return span
      },
      context: (f) => f()
    })
  }
}

/**
 * The spans whose parent is this one.
 *
 * @since 0.1.0
 * @category accessors
 */
export const childrenOf = (recording: RecordingTracer, span: Tracer.AnySpan): ReadonlyArray<RecordedSpan> =>
  recording.spans.filter((each) => each.parent._tag === "Some" && each.parent.value.spanId === span.spanId)
