/**
 * A double of Confluence Cloud, written from Atlassian's description of its API (v2) and, where that has nothing (search,
 * uploads, labels), of version 1. It is not Confluence: it knows a few forms of queries, and nothing of permissions. It
 * imports nothing of ours.
 */
import { Effect, type Scope } from "effect"
import * as HttpDouble from "./HttpDouble.ts"
import { OpenApi } from "./OpenApi.ts"

interface StoredPage {
  readonly id: string
  readonly spaceId: string
  readonly parentId: string
  title: string
  status: string
  version: number
  message: string
  storage: string
  readonly labels: Array<string>
  readonly properties: Map<string, { readonly id: string; value: unknown; version: number }>
}

interface StoredFile {
  readonly id: string
  readonly pageId: string
  readonly name: string
  readonly mediaType: string
  comment: string
  content: Buffer
  version: number
}

export interface ConfluenceDouble extends HttpDouble.HttpDouble {
  readonly pages: Map<string, StoredPage>
  readonly files: Map<string, StoredFile>
  /** `authorization` headers that are let in. */
  readonly allowed: Set<string>
  readonly media: HttpDouble.HttpDouble
  /** How links to next pages go wrong. */
  links: "right" | "the same" | "again" | "another host" | "150 empty pages"
  /** Whether a conflict tells the current version. */
  tellsVersion: boolean
}

const now = "2026-11-22T10:00:00.000Z"

const version = (number: number, message = "") => ({
  number,
  message,
  createdAt: now,
  authorId: "me",
  minorEdit: false
})

const error = (status: number, code: string, title: string, parameter?: string): HttpDouble.Answer => ({
  status,
  body: {
    errors: [{ status, code, title, detail: null, ...(parameter === undefined ? {} : { source: { parameter } }) }]
  }
})

const missing = error(404, "NOT_FOUND", "Not Found")

export const start = (pageCount = 0): Effect.Effect<ConfluenceDouble, never, Scope.Scope> =>
  Effect.gen(function* () {
    const pages = new Map<string, StoredPage>()
    const files = new Map<string, StoredFile>()
    const comments = new Map<
      string,
      {
        readonly id: string
        readonly pageId: string
        readonly parent: string | undefined
        storage: string
        version: number
      }
    >()
    let next = 100
    const add = (title: string, storage: string, spaceId = "1", parentId = "100"): StoredPage => {
      const page: StoredPage = {
        id: String(next++),
        spaceId,
        parentId,
        title,
        status: "current",
        version: 1,
        message: "",
        storage,
        labels: [],
        properties: new Map()
      }
      pages.set(page.id, page)
      return page
    }
    for (let made = 0; made < pageCount; made++) add(`Page ${made}`, `<p>Text ${made}</p>`)

    const media = yield* HttpDouble.start(undefined, ({ url }) => {
      const file = files.get(url.pathname.slice(1))
      return file === undefined ? { status: 404 } : { status: 200, body: file.content }
    })

    const shown = (page: StoredPage, format: string | null, bulk: boolean) => ({
      id: page.id,
      status: page.status,
      title: page.title,
      spaceId: page.spaceId,
      parentId: page.parentId,
      parentType: "page",
      position: 1,
      authorId: "me",
      ownerId: "me",
      createdAt: now,
      version: version(page.version, page.message),
      body:
        format === "storage"
          ? { storage: { representation: "storage", value: page.storage } }
          : format === "view" && !bulk
            ? { view: { representation: "view", value: page.storage } }
            : format === "atlas_doc_format"
              ? {
                  atlas_doc_format: {
                    representation: "atlas_doc_format",
                    value: '{"version":1,"type":"doc","content":[]}'
                  }
                }
              : {},
      _links: { webui: `/spaces/DOC/pages/${page.id}`, editui: "/edit", tinyui: "/x/a" }
    })
    const fileOf = (file: StoredFile) => ({
      id: file.id,
      status: "current",
      title: file.name,
      createdAt: now,
      pageId: file.pageId,
      mediaType: file.mediaType,
      mediaTypeDescription: "",
      comment: file.comment,
      fileId: `file-${file.id}`,
      fileSize: file.content.length,
      webuiLink: "/a",
      downloadLink: `/download/attachments/${file.pageId}/${encodeURIComponent(file.name)}`,
      version: version(file.version),
      _links: { webui: "/a", download: "/b" }
    })

    const route = (asked: HttpDouble.Asked): HttpDouble.Answer | undefined => {
      const { json, method, url } = asked
      if (!double.allowed.has(asked.headers.authorization ?? "")) {
        return error(401, "UNAUTHORIZED", "Unauthorized")
      }
      const body = HttpDouble.fields(json)
      const path = url.pathname
      const query = url.searchParams
      const storageOf = (value: unknown): string => String(HttpDouble.fields(value)["value"] ?? "")

      /** A part of all, and the link to the next. */
      const listed = (all: ReadonlyArray<unknown>, base = "/wiki/api/v2"): HttpDouble.Answer => {
        const cursor = query.get("cursor")
        const [at, turn] = cursor === null ? [] : Buffer.from(cursor, "base64url").toString().split("/")
        const from = Number(at ?? 0)
        if (Number.isNaN(from)) return error(400, "INVALID_REQUEST_PARAMETER", "The cursor is invalid", "cursor")
        const limit = Math.min(Number(query.get("limit") ?? 25), 25)
        const empty = double.links === "150 empty pages" && Number(turn ?? 0) < 150
        const to = double.links === "again" || empty ? from : from + limit
        const more = empty || from + limit < all.length
        const token = Buffer.from(
          double.links === "again"
            ? `${to}/${asked.url.search.length}`
            : double.links === "150 empty pages"
              ? `${to}/${Number(turn ?? 0) + 1}`
              : String(to)
        ).toString("base64url")
        const search = new URLSearchParams(query)
        search.set("cursor", double.links === "the same" ? "MTA" : token)
        const host = double.links === "another host" ? media.origin : ""
        const link = `${host}${path.replace(/^\/wiki(?=\/rest)/, "")}?${search}`
        return {
          status: 200,
          headers: more ? { link: `<${link}>; rel="next"` } : {},
          body: {
            results: empty ? [] : all.slice(from, from + limit),
            _links: { base: `https://double${base === "" ? "" : "/wiki"}`, ...(more ? { next: link } : {}) }
          }
        }
      }

      if (path === "/wiki/api/v2/spaces") {
        const keys = query.get("keys")?.split(",")
        const all = ["DOC", "OPS", "~me"].map((key, at) => ({
          id: String(at + 1),
          key,
          name: `Space ${key}`,
          type: "global",
          status: "current",
          authorId: "me",
          createdAt: now,
          homepageId: "100",
          _links: { webui: "/spaces/DOC" }
        }))
        return listed(all.filter(({ key }) => keys === undefined || keys.includes(key)))
      }
      if (path === "/wiki/api/v2/spaces/1") {
        return { status: 200, body: { id: "1", key: "DOC", name: "Space DOC", type: "global", status: "current" } }
      }
      if (path === "/wiki/api/v2/pages" && method === "GET") {
        const title = query.get("title")
        const space = query.get("space-id")
        return listed(
          [...pages.values()]
            .filter((page) => page.status === "current")
            .filter((page) => (title === null || page.title === title) && (space === null || page.spaceId === space))
            .map((page) => shown(page, query.get("body-format"), true))
        )
      }
      if (path === "/wiki/api/v2/pages" && method === "POST") {
        if ([...pages.values()].some((page) => page.title === body["title"] && page.status === "current")) {
          return error(
            400,
            "INVALID_REQUEST_PARAMETER",
            "A page already exists with the secret title of somebody",
            "title"
          )
        }
        const page = add(
          String(body["title"]),
          storageOf(body["body"]),
          String(body["spaceId"]),
          String(body["parentId"] ?? "100")
        )
        return { status: 200, body: shown(page, "storage", false) }
      }

      if (path === "/wiki/rest/api/search") {
        const text = /^text ~ "(.*)"$/.exec(query.get("cql") ?? "")?.[1]
        if (text === undefined)
          return { status: 400, body: { statusCode: 400, message: "Could not parse cql : the secret query" } }
        return listed(
          [...pages.values()]
            .filter((page) => page.storage.includes(text))
            .map((page) => ({
              content: { id: page.id, type: "page", status: page.status, title: page.title },
              title: page.title,
              excerpt: page.storage,
              url: `/spaces/DOC/pages/${page.id}`,
              entityType: "content",
              lastModified: now,
              score: 1.5,
              somethingNew: { deep: [1] }
            }))
        )
      }
      const v1 = /^\/wiki\/rest\/api\/content\/(\d+)\/(label|child\/attachment)(?:\/(\w+)\/download)?$/.exec(path)
      if (v1 !== null) {
        const page = pages.get(v1[1] ?? "")
        if (page === undefined) return { status: 404, body: { statusCode: 404, message: "No content found with id" } }
        if (v1[2] === "label") {
          if (method === "POST" && Array.isArray(json)) {
            page.labels.push(...json.map((label) => String(HttpDouble.fields(label)["name"])))
            return { status: 200, body: { results: page.labels.map((name) => ({ prefix: "global", name })) } }
          }
          const at = page.labels.indexOf(query.get("name") ?? "")
          if (at < 0) return { status: 404, body: { statusCode: 404, message: "No label" } }
          page.labels.splice(at, 1)
          return { status: 204 }
        }
        if (v1[3] !== undefined) {
          const file = files.get(v1[3])
          return file === undefined
            ? { status: 404, body: { statusCode: 404, message: "No attachment" } }
            : { status: 302, headers: { location: `${media.origin}/${file.id}` } }
        }
        if (asked.headers["x-atlassian-token"] !== "nocheck")
          return { status: 403, body: { message: "XSRF check failed" } }
        return upload(asked, page)
      }

      const attachment = /^\/wiki\/api\/v2\/attachments\/(\w+)$/.exec(path)
      if (attachment !== null) {
        const file = files.get(attachment[1] ?? "")
        if (file === undefined) return missing
        if (method === "DELETE") {
          files.delete(file.id)
          return { status: 204 }
        }
        return { status: 200, body: fileOf(file) }
      }

      const commentOf = (one: {
        id: string
        pageId: string
        parent: string | undefined
        storage: string
        version: number
      }) => ({
        id: one.id,
        status: "current",
        title: "Re:",
        pageId: one.pageId,
        ...(one.parent === undefined ? {} : { parentCommentId: one.parent }),
        version: version(one.version),
        body: { storage: { representation: "storage", value: one.storage } },
        _links: { webui: "/c" }
      })
      if (path === "/wiki/api/v2/footer-comments" && method === "POST") {
        const parent = body["parentCommentId"] === undefined ? undefined : comments.get(String(body["parentCommentId"]))
        const pageId = parent?.pageId ?? String(body["pageId"])
        if (!pages.has(pageId)) return missing
        const one = { id: String(next++), pageId, parent: parent?.id, storage: storageOf(body["body"]), version: 1 }
        comments.set(one.id, one)
        return { status: 201, body: commentOf(one) }
      }
      const comment = /^\/wiki\/api\/v2\/footer-comments\/(\d+)$/.exec(path)
      if (comment !== null) {
        const one = comments.get(comment[1] ?? "")
        if (one === undefined) return missing
        if (method === "DELETE") {
          comments.delete(one.id)
          return { status: 204 }
        }
        if (HttpDouble.fields(body["version"])["number"] !== one.version + 1) return conflict(one.version)
        one.version++
        one.storage = storageOf(body["body"])
        return { status: 200, body: commentOf(one) }
      }

      const one = /^\/wiki\/api\/v2\/pages\/([^/]+)(?:\/([\w-]+)(?:\/(\d+))?)?$/.exec(path)
      if (one === null) return undefined
      const page = pages.get(one[1] ?? "")
      if (page === undefined) return missing
      switch (one[2]) {
        case undefined: {
          if (method === "GET") return { status: 200, body: shown(page, query.get("body-format"), false) }
          if (method === "DELETE") {
            page.status = "trashed"
            if (query.get("purge") === "true") pages.delete(page.id)
            return { status: 204 }
          }
          if (HttpDouble.fields(body["version"])["number"] !== page.version + 1) return conflict(page.version)
          page.version++
          page.message = String(HttpDouble.fields(body["version"])["message"] ?? "")
          page.title = String(body["title"])
          page.storage = storageOf(body["body"])
          return { status: 200, body: shown(page, "storage", false) }
        }
        case "children":
          return listed(
            [...pages.values()]
              .filter(({ parentId, id }) => parentId === page.id && id !== page.id)
              .map(({ id, spaceId, title }) => ({ id, status: "current", title, spaceId, childPosition: 1 }))
          )
        case "labels":
          return listed(page.labels.map((name, at) => ({ id: String(at), name, prefix: "global" })))
        case "footer-comments":
          return listed(
            [...comments.values()]
              .filter(({ pageId, parent }) => pageId === page.id && parent === undefined)
              .map(commentOf)
          )
        case "attachments": {
          const name = query.get("filename")
          return listed(
            [...files.values()]
              .filter((file) => file.pageId === page.id && (name === null || file.name === name))
              .map(fileOf)
          )
        }
        case "properties": {
          const propertyOf = ([key, { id, value, version: number }]: [
            string,
            { id: string; value: unknown; version: number }
          ]) => ({
            id,
            key,
            value,
            version: version(number)
          })
          const found = [...page.properties].find(([, { id }]) => id === one[3])
          if (method === "GET") {
            const key = query.get("key")
            return listed([...page.properties].filter(([each]) => key === null || each === key).map(propertyOf))
          }
          if (method === "POST") {
            const entry = { id: String(next++), value: body["value"], version: 1 }
            page.properties.set(String(body["key"]), entry)
            return { status: 200, body: propertyOf([String(body["key"]), entry]) }
          }
          if (found === undefined) return missing
          if (method === "DELETE") {
            page.properties.delete(found[0])
            return { status: 204 }
          }
          if (HttpDouble.fields(body["version"])["number"] !== found[1].version + 1) return conflict(found[1].version)
          found[1].version++
          found[1].value = body["value"]
          return { status: 200, body: propertyOf(found) }
        }
        default:
          return undefined
      }
    }

    const conflict = (current: number): HttpDouble.Answer =>
      error(
        409,
        "CONFLICT",
        double.tellsVersion
          ? `Version must be incremented when updating a page. Current Version: [${current}]. Provided version: [x]`
          : "Conflict"
      )

    const upload = (asked: HttpDouble.Asked, page: StoredPage): HttpDouble.Answer => {
      const boundary = /boundary=(.+)$/.exec(asked.headers["content-type"] ?? "")?.[1] ?? ""
      const made: Array<StoredFile> = []
      let comment = ""
      for (const part of asked.body.toString("latin1").split(`--${boundary}`).slice(1, -1)) {
        const end = part.indexOf("\r\n\r\n")
        const head = Buffer.from(part.slice(0, end), "latin1").toString("utf8")
        const content = Buffer.from(part.slice(end + 4, -2), "latin1")
        const name = /filename="([^"]*)"/.exec(head)?.[1]
        if (name === undefined) {
          if (head.includes('name="comment"')) comment = content.toString()
          continue
        }
        const before = [...files.values()].find((file) => file.pageId === page.id && file.name === name)
        if (before !== undefined && asked.method === "POST") {
          return { status: 400, body: { statusCode: 400, message: "Cannot add a new attachment with same file name" } }
        }
        const file = before ?? {
          id: `att${next++}`,
          pageId: page.id,
          name,
          mediaType: /content-type: (.+)/i.exec(head)?.[1]?.trim() ?? "",
          comment: "",
          content,
          version: 0
        }
        file.content = content
        file.version++
        files.set(file.id, file)
        made.push(file)
      }
      for (const file of made) file.comment = comment
      return {
        status: 200,
        body: {
          results: made.map((file) => ({
            id: file.id,
            type: "attachment",
            status: "current",
            title: file.name,
            version: { number: file.version },
            extensions: { mediaType: file.mediaType, fileSize: file.content.length, comment: file.comment },
            _links: { download: "/download/a" }
          })),
          size: made.length
        }
      }
    }

    const http = yield* HttpDouble.start(new OpenApi("confluence-v2.json", "/wiki/api/v2"), (asked) => route(asked))
    const double: ConfluenceDouble = Object.assign(http, {
      pages,
      files,
      media,
      allowed: new Set(["Bearer good-token", `Basic ${Buffer.from("me@example.com:api-token").toString("base64")}`]),
      links: "right" as const,
      tellsVersion: true
    })
    return double
  })
