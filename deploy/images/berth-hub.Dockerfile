# The image of berth-hub: one static program and nothing else. Its context is the directory with that program; build.sh
# makes both.
FROM scratch
COPY berth-hub /berth-hub
USER 65532:65532
ENTRYPOINT ["/berth-hub"]
CMD ["run"]
