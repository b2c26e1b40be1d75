# The image of berth-agent: one static program and nothing else. Its context is the directory with that program; build.sh
# makes both.
FROM scratch
COPY berth-agent /berth-agent
USER 65532:65532
ENTRYPOINT ["/berth-agent"]
CMD ["run"]
