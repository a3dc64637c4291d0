/**
 * The spans of toolkits of `@effect/ai`, without what they would tell.
 */
import * as Effect from "effect/Effect"
import * as Tracer from "effect/Tracer"

/** The toolkit's own span would hold the arguments of every call. */
export const withoutParameters = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.tracerWith((tracer) =>
    Effect.withTracer(
      effect,
      Tracer.make({
        span: (...options) => {
          const span = tracer.span(...options)
          if (options[0] !== "Toolkit.handle") return span
          const attribute = span.attribute.bind(span)
          return Object.assign(span, {
            attribute: (name: string, value: unknown) => {
              if (name !== "parameters") attribute(name, value)
            }
          })
        },
        context: (run, fiber) => tracer.context(run, fiber)
      })
    )
  )
