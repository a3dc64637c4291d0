import { run } from "../history.ts"

await run()
process.exit(0)
