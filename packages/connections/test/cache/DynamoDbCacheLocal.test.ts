import { describe } from "@effect/vitest"
import * as DynamoDbLocalServer from "@underlay/servers/DynamoDbLocalServer"
import * as Need from "@underlay/servers/Need"
import { Layer } from "effect"
import { behaviour, Server } from "./dynamoDbCacheBehaviour.ts"

describe.skipIf(Need.missing("dynamodb-local"))(Need.title("DynamoDbCache on DynamoDB Local", "dynamodb-local"), () => {
  behaviour(Layer.scoped(Server, DynamoDbLocalServer.make()))
})
