/** The double of MongoDB in a process of its own, so that its CPU is not that of its clients. It tells its port. */
import { Effect } from "effect"
import * as MongoWireServer from "../../../servers/src/MongoWireServer.ts"

await Effect.runPromise(
  Effect.scoped(
    Effect.flatMap(MongoWireServer.make(), ({ port }) => {
      process.send?.(port)
      return Effect.never
    })
  )
)
